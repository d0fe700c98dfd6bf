"""`adapters verify`, `fsck` and `gc`: is everything there, and what can go."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptery.cli.context import (
    human_size,
    json_option,
    open_registry,
    print_json,
    registry_option,
    stderr,
    stdout,
)
from adaptery.cli.params import complete_references
from adaptery.errors import UsageError, VerificationError
from adaptery.types import AdapterRef

if TYPE_CHECKING:
    from adaptery.registry.base import Registry
    from adaptery.registry.reports import Finding

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class Duration(click.ParamType[float]):
    """A length of time such as 90s, 30m, 24h, 7d or 2w; gives seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", str(value))
        if not match or (not match[2] and float(match[1])):
            self.fail(f"{value!r} is not a length of time such as 90s, 30m, 24h, 7d or 0.", param)
        return float(match[1]) * _UNITS[match[2] or "s"]


@click.command("verify")
@click.argument("refs", nargs=-1, metavar="[REF]…", shell_complete=complete_references)
@click.option("--all", "everything", is_flag=True, help="Every version in the registry.")
@click.option("--signature", is_flag=True, help="Also check that a key signed them.")
@click.option(
    "--public-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --signature: the key that must have signed them, a PEM file.",
)
@registry_option
@json_option
def verify_command(
    refs: tuple[str, ...],
    everything: bool,
    signature: bool,
    public_key: Path | None,
    registry: str,
    as_json: bool,
) -> None:
    """Read every byte of versions and check it against its digest.

    Ends with 5 if one is not what it must be.
    """
    if bool(refs) == everything:
        raise UsageError("Name the versions to verify, or give --all for every one.")
    if signature != (public_key is not None):
        raise UsageError("To check signatures, give both --signature and --public-key FILE.")
    store = open_registry(registry)
    chosen = None if everything else [AdapterRef.parse(ref) for ref in refs]
    with stderr().status("Reading every byte …"):
        found = list(store.verify(chosen))
        if public_key is not None:
            found += unsigned(store, chosen, public_key)
    fine = f" and is signed by the key in {public_key}" if public_key else ""
    report(found, f"Every byte has its digest{fine}.", as_json)


@click.command("fsck")
@click.option("--repair", is_flag=True, help="Rebuild what can be derived; set damage aside.")
@registry_option
@json_option
def fsck_command(repair: bool, registry: str, as_json: bool) -> None:
    """Check the whole registry: history, what derives from it, every byte.

    Ends with 5 if something is wrong and was not repaired. Versions and history are never changed.
    """
    with stderr().status("Checking …"):
        found = open_registry(registry).fsck(repair=repair)
    report(found, "Nothing is wrong.", as_json)


@click.command("gc")
@click.option(
    "--grace",
    type=Duration(),
    default="24h",
    show_default=True,
    help="Spare what was used within this time, such as 90s, 30m, 24h, 7d.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@registry_option
@json_option
def gc_command(grace: float, dry_run: bool, registry: str, as_json: bool) -> None:
    """Take away what no version and no live lease refers to."""
    with stderr().status("Collecting …"):
        swept = open_registry(registry).gc(grace=grace, dry_run=dry_run)
    if as_json:
        print_json({**asdict(swept), "dry_run": dry_run})
        return
    would = "Would free" if dry_run else "Freed"
    stdout().print(
        f"{would} {human_size(swept.bytes)}: {swept.blobs} files that no version has, "
        f"{swept.checkouts} directories out of use, {swept.unfinished} unfinished writes; "
        f"{swept.leased} directories are leased and stay."
    )


def unsigned(
    store: "Registry", refs: Sequence[AdapterRef] | None, public_key: Path
) -> list["Finding"]:
    """Which versions (all if None) are not signed by this key, and why that is said."""
    from adaptery.registry.reports import Finding

    found = []
    for ref in refs or [AdapterRef(v.name, number=v.number) for v in store.versions()]:
        try:
            store.verify_signature(ref, public_key)
        except VerificationError as error:
            found.append(Finding(f"the signature of {ref}", str(error)))
    return found


def report(found: Sequence["Finding"], fine: str, as_json: bool) -> None:
    """Print findings. Raises `VerificationError` if one is left."""
    left = [finding for finding in found if not finding.repaired]
    if as_json:
        print_json({"ok": not left, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            stdout().print(str(finding), soft_wrap=True)
    if left:
        things = "thing is" if len(left) == 1 else "things are"
        raise VerificationError(f"{len(left)} {things} not as it must be.")
    if not as_json and not found:
        stdout().print(fine)
