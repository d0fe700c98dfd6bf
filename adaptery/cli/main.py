"""The command group. `adapters --help` loads no command, only their table."""

import importlib
import importlib.metadata
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from adaptery.cli.commands import COMMANDS, SECTIONS
from adaptery.errors import AdapteryError, Interrupted, suggest
from adaptery.plugins.specs import PLUGIN_GROUP

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPLETE = "_ADAPTERS_COMPLETE"


class Adapters(click.Group):
    """Loads a command when it is called; asks plugins for those that are not ours."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(plugin_commands())]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module = importlib.import_module(f"adaptery.cli.{COMMANDS[name][0]}")
            command: click.Command = getattr(module, f"{name}_command")
            return command
        return plugin_commands().get(name)

    def shell_complete(
        self, context: click.Context, incomplete: str
    ) -> "list[CompletionItem[str]]":
        """Commands by their table, of which none needs to be loaded, and our own options."""
        from click.shell_completion import CompletionItem

        known = {name: summary for name, (_, summary) in COMMANDS.items()} | {
            name: command.get_short_help_str() for name, command in plugin_commands().items()
        }
        commands = [
            CompletionItem(name, help=summary)
            for name, summary in known.items()
            if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, context, incomplete)]

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(context, args[0]) is None:
            known = self.list_commands(context)
            context.fail(f"There is no command {args[0]!r}. {suggest(args[0], known)}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, (_, summary) in commands.items()])
        others = sorted(plugin_commands().items())
        if others:
            with formatter.section("From plugins"):
                formatter.write_dl(
                    [(name, command.get_short_help_str(80)) for name, command in others]
                )


def plugin_commands() -> dict[str, click.Command]:
    """Commands that third-party plugins add."""
    if not importlib.metadata.entry_points(group=PLUGIN_GROUP):
        return {}  # and the built-in plugins need not be imported to show the help
    from adaptery.cli.context import plugins

    return plugins().commands(taken=COMMANDS)


@click.group(cls=Adapters, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="adaptery", message="adaptery %(version)s")
def cli() -> None:
    """Carry a LoRA adapter through its whole life: train, version, serve by name, roll back, merge.

    References: support (its live version), support@3, support@latest, support@canary (an alias),
    support@sha256:1f2e3d4c. Versions are kept where --registry or ADAPTERS_REGISTRY says: a
    directory, postgresql://…?blobs=URL, or hf://ORG.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; errors are sentences on stderr."""
    quiet_libraries()
    if COMPLETE in os.environ:  # a shell asks what may come next
        import adaptery.cli.completion  # noqa: F401 - tells click how we answer bash

        warnings.simplefilter("ignore")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        result: Any = cli.main(args=arguments, prog_name="adapters", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except AdapteryError as error:
        return fail(error, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return fail("Interrupted; nothing was published.", Interrupted.exit_code)
    except BrokenPipeError:
        # The reader, such as `head`, has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        return fail(f"The operating system refused: {error}.", 1)
    return result if isinstance(result, int) else 0


def fail(error: object, code: int) -> int:
    """Say what went wrong."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
    return code


def quiet_libraries() -> None:
    """Keep other libraries' bars and notices out of our output; their errors still raise."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait by spinning bring a trainer beside a server on the same cores to a crawl.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Its notice recommends a package that downloads compiled kernels at run time.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
