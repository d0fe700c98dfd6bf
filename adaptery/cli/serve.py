"""`adapters serve`."""

from typing import TYPE_CHECKING, Any

import click

from adaptery.base_model import open_base
from adaptery.cli.context import open_registry, plugins, registry_option
from adaptery.cli.flags import config_flags, given
from adaptery.config import Resolved, read_environment, resolve
from adaptery.serving.config import ServeConfig

if TYPE_CHECKING:
    from adaptery.serving.engine import Engine

REPEATED = {"api_keys": "--api-key", "pins": "--pin"}
FLAGS = {REPEATED.get(key, f"--{key.replace('_', '-')}"): key for key in ServeConfig.model_fields}


@click.command("serve")
@config_flags(ServeConfig, FLAGS)
@registry_option
def serve_command(registry: str, **flags: Any) -> None:
    """Serve one base and all its adapters over an OpenAI-style API.

    A request's `model` field names the adapter: support, support@3, support@canary. Promotions
    and rollbacks by other processes count from the next request on. Every option can also be
    set in the environment, such as ADAPTERS_API_KEYS.
    """
    from adaptery.serving.run import serve

    config = serve_config(flags).value
    make_engine = plugins().load("engines", config.engine)
    router = plugins().load("request_routers", config.router)()

    def engine() -> "Engine":
        made: Engine = make_engine(open_base(config.base, config.revision), config)
        return made

    serve(config, lambda: open_registry(registry), engine, router)


def serve_config(flags: dict[str, Any]) -> Resolved[ServeConfig]:
    """Flags over the environment over defaults."""
    return resolve(ServeConfig, [read_environment(ServeConfig), given(FLAGS, flags)])
