"""`adapters import`."""

import click

from adaptery.cli.context import (
    json_option,
    open_registry,
    print_json,
    reason_option,
    registry_option,
    stderr,
    stdout,
    version_data,
)


@click.command("import")
@click.argument("source")
@click.option("--name", required=True, help="The adapter whose next version it becomes.")
@click.option("--base", help="The base model, if not what the adapter's configuration names.")
@click.option(
    "--convert-pickle",
    is_flag=True,
    help="Take the tensors out of an adapter_model.bin, in a process of its own.",
)
@reason_option
@registry_option
@json_option
def import_command(
    source: str,
    name: str,
    base: str | None,
    convert_pickle: bool,
    reason: str,
    registry: str,
    as_json: bool,
) -> None:
    """Check a PEFT adapter of any tool and keep it as the next version.

    SOURCE is a directory, or hf://ORG/REPO[@REVISION] for a plain PEFT repository on the Hub. It is
    only read; what does not belong to an adapter is left behind and named.
    """
    from adaptery.registry.gate.text import listed

    with stderr().status(f"Importing {source} …"):
        found = open_registry(registry).import_adapter(
            source, name, base=base, convert_pickle=convert_pickle, reason=reason
        )
    if found.left_behind:
        stderr().print(f"Left behind: {listed(found.left_behind)}.")
    if as_json:
        print_json({**version_data(found.version), "left_behind": found.left_behind})
    else:
        version = found.version
        stdout().print(
            f"{version} is sha256:{version.digest} ({version.manifest.method} on "
            f"{version.manifest.base.id}).",
            soft_wrap=True,
        )
