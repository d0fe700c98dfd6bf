"""The built-in exporters."""

from typing import Any

from adaptery import hookimpl
from adaptery.plugins.specs import Spec


@hookimpl
def exporters() -> list[Spec]:
    return [Spec("merged", "a plain model with the adapter folded into its weights", merged)]


def merged() -> Any:
    from adaptery.exporters.merged import export_merged

    return export_merged
