"""`adapters merge` and `export`."""

from pathlib import Path
from typing import Any

import click

from adaptery.base_model import open_base
from adaptery.cli.context import (
    json_option,
    open_registry,
    plugins,
    print_json,
    registry_option,
    stderr,
    stdout,
)
from adaptery.cli.params import ref_argument
from adaptery.types import AdapterRef


def export_options(command: Any) -> Any:
    """What both commands take."""
    for option in (
        json_option,
        registry_option,
        click.option(
            "--dtype",
            type=click.Choice(["base", "float32", "bfloat16", "float16"]),
            default="base",
            show_default=True,
            help="Number format of the weights written.",
        ),
        click.option("--base", help="Where the base model is, if not where it was for training."),
        click.option(
            "--output",
            required=True,
            type=click.Path(path_type=Path),
            help="A folder that is not there yet.",
        ),
        ref_argument,
    ):
        command = option(command)
    return command


@click.command("merge")
@export_options
def merge_command(
    ref: str, output: Path, base: str | None, dtype: str, registry: str, as_json: bool
) -> None:
    """Fold a version into its base: a plain model, checked."""
    export("merged", ref, output, base, dtype, registry, as_json)


@click.command("export")
@click.option("--to", "form", required=True, help="An exporter plugin, such as merged.")
@export_options
def export_command(
    form: str, ref: str, output: Path, base: str | None, dtype: str, registry: str, as_json: bool
) -> None:
    """Hand a version out in another form."""
    export(form, ref, output, base, dtype, registry, as_json)


def export(
    form: str, ref: str, output: Path, base: str | None, dtype: str, registry: str, as_json: bool
) -> None:
    """Find exporter, version and base, in this order, and let the exporter write."""
    from adaptery.exporters.base import ExportJob

    exporter = plugins().load("exporters", form)
    store = open_registry(registry)
    version = store.resolve(AdapterRef.parse(ref))
    found = open_base(
        base or version.manifest.base.id, None if base else version.manifest.base.revision
    )
    found.require(version.manifest, str(version))
    job = ExportJob(version, store.materialize(version), found, output, dtype)
    with stderr().status(f"Exporting {version} as {form} …"):
        figures = exporter(job)
    if as_json:
        print_json({"version": str(version), "output": str(output), **figures})
    else:
        checks = ", ".join(
            f"{name.replace('_', ' ')} {value:.4g}"
            if isinstance(value, float)
            else f"{name.replace('_', ' ')} {value}"
            for name, value in figures.items()
        )
        stdout().print(f"{version} is now the plain model {output} ({checks}).", soft_wrap=True)
