"""Do a repository's tags and commits hold what its ledger says was published?"""

import re
from collections.abc import Iterator

from adaptery.errors import CorruptFile
from adaptery.registry.files.digests import mismatch
from adaptery.registry.hub.client import HubClient
from adaptery.registry.hub.reading import MANIFEST, HubReader, publish_title
from adaptery.registry.line import Line
from adaptery.registry.reports import Finding


def check_commits(
    client: HubClient, reader: HubReader, line: Line, *, repair: bool
) -> Iterator[Finding]:
    """Every version has a tag, on the commit that published it, and every version tag a version.

    With `repair`, missing tags are made.
    """
    repo = reader.repo(line.name)
    head = reader.state(line.name).head
    tags = client.tags(repo)
    titles = client.titles(repo, head.commit) if head else {}
    for number, digest in sorted(line.digests.items()):
        subject, tag = f"{line.name}@{number}", f"v{number}"
        commit = titles.get(publish_title(line.name, number, digest))
        if tag in tags:
            if commit not in (None, tags[tag]):
                yield Finding(subject, _moved(tag, tags[tag], str(commit)))
        elif commit is None:
            yield Finding(subject, f"There is neither its tag {tag} nor the commit of it.")
        else:
            if repair:
                client.tag(repo, tag, commit)
            done = f"It was made again, on commit {commit}." if repair else None
            yield Finding(subject, f"Its tag {tag} is missing.", done)
    for tag in sorted(tags):
        if re.fullmatch(r"v[1-9]\d{0,8}", tag) and int(tag[1:]) not in line.digests:
            yield Finding(repo, f"The tag {tag} is no version; delete or rename it on the Hub.")


def check_manifest(reader: HubReader, line: Line, number: int) -> Iterator[Finding]:
    """The manifest that the version's commit holds is the one that the ledger names."""
    subject = f"{line.name}@{number}: {MANIFEST}"
    digest = line.digests[number]
    try:
        found = reader.rehash(line.name, number, digest, MANIFEST, None)
    except CorruptFile as error:
        yield Finding(subject, str(error))
        return
    if found is None:
        yield Finding(subject, f"sha256:{digest} is gone.")
    elif found != digest:
        yield Finding(subject, mismatch("It", digest, found))


def _moved(tag: str, names: str, commit: str) -> str:
    return (
        f"Its tag {tag} names commit {names}, but it was published as {commit}. Delete the tag on "
        "the Hub, then run `adapters fsck --repair`."
    )
