"""The command group. `adapters --help` loads no command, only the table below."""

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

from adaptery.errors import AdapteryError, Interrupted, suggest
from adaptery.plugins.specs import PLUGIN_GROUP

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPLETE = "_ADAPTERS_COMPLETE"
# Command → (module, summary). The summaries stand here so that listing them imports nothing;
# a test holds that each equals its command's own.
COMMANDS = {
    "train": ("train", "Train an adapter and publish it as the next version."),
    "methods": ("about", "List the training methods."),
    "plugins": ("about", "List the plugins and what they register."),
    "list": ("catalogue", "List the adapters, or one adapter's versions."),
    "show": ("showing", "Show one version: files, base, method, metrics, standing."),
    "history": ("showing", "Show every event of an adapter, oldest first."),
    "diff": ("difference", "Show how two versions differ, down to each module's weight."),
    "promote": ("aliases", "Let an alias mean a version; a bare name means `live`."),
    "rollback": ("aliases", "Let an alias mean again what it meant before."),
    "yank": ("standing", "Take a version out of use; it stays readable."),
    "unyank": ("standing", "Take a yank back."),
    "tag": ("standing", "Give a version tags, or take them away."),
    "note": ("standing", "Keep a note about a version."),
    "verify": ("care", "Read every byte of versions and check it against its digest."),
    "fsck": ("care", "Check the whole registry: history, what derives from it, every byte."),
    "gc": ("care", "Take away what no version and no live lease refers to."),
    "bundle": ("carry", "Write a version to one file, to be carried where no network reaches."),
    "unbundle": ("carry", "Publish the version in a file that `adapters bundle` wrote."),
    "sync": ("carry", "Give this registry and a remote one the versions that only the other has."),
    "sign": ("carry", "Sign a version's manifest and files; the signature goes into its history."),
    "registry": ("registry", "Make, describe, migrate or copy a whole registry."),
    "serve": ("serve", "Serve one base and all its adapters over an OpenAI-style API."),
    "chat": ("chat", "Talk to a version on this machine."),
    "merge": ("export", "Fold a version into its base: a plain model, checked."),
    "export": ("export", "Hand a version out in another form."),
    "completion": ("completion", "Print the script by which a shell completes references."),
    "publish": ("remote", "Copy a version to a remote registry such as hf://ORG."),
    "pull": ("remote", "Copy a version from a remote registry."),
    "import": ("imports", "Check a PEFT adapter of any tool and keep it as the next version."),
}


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
        """Commands by the table above, of which none needs to be loaded, and our own options."""
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
        rows = [(name, summary) for name, (_, summary) in COMMANDS.items()]
        others = sorted(plugin_commands().items())
        rows += [(name, command.get_short_help_str(80)) for name, command in others]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


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
    support@sha256:1f2e… The registry is the folder named by --registry or ADAPTERS_REGISTRY.
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
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait by spinning bring a trainer beside a server on the same cores to a crawl.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Its notice recommends a package that downloads compiled kernels at run time.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
