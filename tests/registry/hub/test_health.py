"""What is damaged on the Hub is found; what can be derived is made again; the cache is swept."""

import os
import time

import pytest

from adaptery.errors import CorruptFile, RemoteError
from adaptery.registry.gate.package import CONFIG, WEIGHTS
from adaptery.types import AdapterRef

REPO = "org/support"
LEDGER = ".adapters/registry.json"


def ref(text):
    return AdapterRef.parse(text)


def said(findings):
    return [str(finding) for finding in findings]


@pytest.fixture
def two(hub, adapter):
    for seed in (1, 2):
        hub.publish("support", adapter(seed, lora_alpha=seed))
    hub.publish("sales", adapter(3, lora_alpha=3))
    for version in hub.versions():
        hub.materialize(version)
    return hub


def test_what_is_whole_has_no_findings(two, fresh):
    for registry in (two, fresh()):
        assert registry.verify() == []
        assert registry.verify([ref("support@1")]) == []
        assert registry.fsck() == []
        assert registry.fsck(repair=True) == []


@pytest.mark.parametrize("path", [WEIGHTS, CONFIG, "manifest.json"])
@pytest.mark.parametrize("harm", ["corrupt", "truncate"])
def test_verify_finds_a_changed_file_although_the_cache_is_intact(two, peer, path, harm):
    getattr(peer, harm)(REPO, path)
    (finding,) = two.verify()
    assert finding.subject == f"support@2: {path}"
    assert "does not have the digest" in finding.problem or "is gone" in finding.problem
    assert said(two.fsck(repair=True)) == said([finding])
    assert two.verify([ref("support@1"), ref("sales")]) == []


@pytest.mark.parametrize("path", [WEIGHTS, CONFIG, "manifest.json"])
@pytest.mark.parametrize("harm", ["corrupt", "truncate"])
def test_no_damaged_byte_is_accepted(two, peer, path, harm, fresh):
    version = two.resolve(ref("support@2"))
    getattr(peer, harm)(REPO, path)
    other = fresh()
    with pytest.raises(CorruptFile, match=rf"org/support: {path} at commit|{path} of org/support"):
        other.materialize(other.resolve(ref("support@2")))
    if path != "manifest.json":
        with pytest.raises(CorruptFile):
            fresh().materialize(version)
    assert two.materialize(version)


@pytest.mark.parametrize("harm", ["corrupt", "truncate"])
def test_a_ledger_that_changed_on_the_way_is_refused(two, peer, harm, fresh):
    getattr(peer, harm)(REPO, LEDGER)
    for read in (lambda: fresh().resolve(ref("support")), lambda: fresh().history("support")):
        with pytest.raises(CorruptFile, match=r"registry\.json.* org/support"):
            read()
    assert any(LEDGER in line for line in said(two.fsck()))
    assert two.verify([ref("sales")]) == []


def test_a_file_that_is_larger_than_it_can_be_is_not_downloaded(two, peer, fresh):
    files = peer.store.repo(REPO).head.files
    files[WEIGHTS] = peer.store.large(peer.store.write(b"x" * 10**6))
    peer.requests.clear()
    with pytest.raises(CorruptFile, match=rf"{WEIGHTS} at commit .* has 1000000 bytes"):
        fresh().materialize(two.resolve(ref("support@2")))
    (finding,) = fresh().verify([ref("support@2")])
    assert finding.subject == f"support@2: {WEIGHTS}"
    assert not [request for request in peer.requests if request.endswith(WEIGHTS)]


def test_a_ledger_that_is_larger_than_any_is_not_downloaded(two, peer, fresh):
    peer.foreign_commit(REPO, LEDGER, b" " * (8 * 2**20 + 1))
    peer.requests.clear()
    with pytest.raises(CorruptFile, match=r"8388609 bytes; at most 8388608 are read"):
        fresh().resolve(ref("support"))
    assert not [request for request in peer.requests if request.endswith(LEDGER)]


def test_a_ledger_from_a_newer_program_is_neither_read_nor_overwritten(two, peer, adapter, fresh):
    newer = b'{"schema_version": 3, "everything": "else"}'
    peer.foreign_commit(REPO, LEDGER, newer)
    for registry in (two, fresh()):
        with pytest.raises(Exception, match="newer adaptery"):
            registry.publish("support", adapter(5))
        assert any("newer adaptery" in line for line in said(registry.fsck(repair=True)))
    file = peer.store.repo(REPO).head.files[LEDGER]
    assert peer.store.blob(file.sha256).read_bytes() == newer


def test_a_history_that_is_rewritten_is_noticed(two, peer, adapter):
    """Somebody puts back an older ledger, then goes on from there."""
    old = peer.store.repo(REPO).commits[1].files[LEDGER]
    old_bytes = peer.store.blob(old.sha256).read_bytes()
    peer.foreign_commit(REPO, LEDGER, old_bytes.replace(b'"actor": "', b'"actor": "not-'))
    with pytest.raises(CorruptFile, match="The history of org/support was rewritten"):
        two.resolve(ref("support"))


def test_tags_are_checked_against_the_history(two, peer, fresh):
    repo = peer.store.repo(REPO)
    del repo.tags["v1"]
    repo.tags["v2"] = repo.commits[0].id
    repo.tags["v9"] = repo.commits[1].id
    repo.tags["best"] = repo.commits[1].id
    found = said(fresh().fsck(repair=True))
    assert found[0].startswith("support@1: Its tag v1 is missing. It was made again, on commit")
    assert found[1].startswith(f"support@2: Its tag v2 names commit {repo.commits[0].id}, but it")
    assert found[2] == "org/support: The tag v9 is no version; delete or rename it on the Hub."
    assert all(line.startswith("support@2: ") for line in found[3:])
    assert len(found) == 5
    assert repo.tags["v1"] == repo.commits[1].id


def test_a_tag_that_is_put_right_is_believed_again(two, peer, fresh):
    repo = peer.store.repo(REPO)
    tags = dict(repo.tags)
    repo.tags["v2"] = repo.commits[0].id
    other, version = fresh(), two.resolve(ref("support@2"))
    with pytest.raises(CorruptFile):
        other.materialize(version)
    repo.tags = tags
    assert other.materialize(version)


def test_a_revert_is_not_taken_for_the_version(two, peer, fresh):
    """Whoever takes a commit back on the Hub quotes its title."""
    repo = peer.store.repo(REPO)
    repo.add(f'Revert "{repo.commits[1].title}"', "", repo.commits[0].files)
    repo.add(repo.commits[1].title, "the same again", repo.commits[2].files)
    del repo.tags["v1"]
    other = fresh()
    assert other.materialize(two.resolve(ref("support@1")))


def test_a_version_without_tag_and_commit_is_found(two, peer, fresh):
    repo = peer.store.repo(REPO)
    repo.commits[1].title = "Super-squash"
    del repo.tags["v1"]
    found = said(fresh().fsck(repair=True))
    assert found[0] == "support@1: There is neither its tag v1 nor the commit of it."


def test_verify_of_a_hub_that_does_not_answer_is_no_finding(two, trouble, pauses):
    trouble("GET /api/models", times=10**6, status=503)
    with pytest.raises(RemoteError):
        two.verify()


def test_info_counts_what_is_there(two):
    info = two.info()
    assert (info.backend, info.url) == ("the Hugging Face Hub", "hf://org")
    assert (info.adapters, info.versions, info.aliases, info.events) == (2, 3, 2, 3)
    assert info.bytes > 0


def test_there_is_nothing_to_make_or_to_migrate(hub):
    assert hub.init() is False
    assert hub.migrate() is None


def age(cache):
    long_ago = time.time() - 10**6
    for path in [cache, *cache.rglob("*")]:
        os.utime(path, (long_ago, long_ago))


def test_gc_sweeps_the_cache_and_nothing_else(two, peer, tmp_path):
    cache = tmp_path / "cache" / "hub"
    held, loose = two.resolve(ref("support@1")), two.resolve(ref("support@2"))
    age(cache)
    two.lease(held, "a server", 60)
    peer.requests.clear()
    plan = two.gc(dry_run=True)
    assert plan.checkouts == 2
    assert two.materialize(held).exists()
    age(cache)
    two.lease(held, "a server", 60)
    swept = two.gc()
    assert (swept.checkouts, swept.leased) == (2, 1)
    assert swept.blobs >= 4
    assert swept.bytes > 0
    assert peer.requests == []
    assert {path.name for path in (cache / "checkouts").iterdir()} == {held.digest}
    assert (two.materialize(loose) / WEIGHTS).exists()
    assert two.fsck() == []


def test_gc_spares_what_was_used_lately(two):
    assert two.gc().blobs == two.gc().checkouts == 0


# Speed


def test_a_listing_downloads_a_ledger_once(two, peer, adapter, fresh):
    other = fresh()
    first = other.versions()
    peer.requests.clear()
    for registry in (other, type(other).open("hf://org")):  # this process, and the next one
        assert registry.versions() == first
    assert [r for r in peer.requests if "resolve" in r] == []
    assert len(peer.requests) == 2 * (1 + 2)  # the list, and a look at each repository
    two.promote(ref("sales"), "canary")
    peer.requests.clear()
    other.versions()
    assert {r for r in peer.requests if "resolve" in r and r.startswith("GET")} == {
        next(r for r in peer.requests if r.startswith("GET /org/sales/resolve/"))
    }


def test_a_cached_ledger_that_was_damaged_is_fetched_again(two, tmp_path):
    opened = type(two).open("hf://org")
    assert opened.resolve(ref("support")).number == 1
    (cached,) = (tmp_path / "cache" / "hub" / "ledgers").iterdir()
    cached.write_bytes(cached.read_bytes().replace(b"published", b"Published"))
    assert type(two).open("hf://org").resolve(ref("support@2")).number == 2
