"""`adapters completion`, and how bash is told what completes a word with an `@` in it."""

import os
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script by which a shell completes references.

    For bash, for example, put this into ~/.bashrc: eval "$(adapters completion bash)"
    """
    from adaptery.cli.main import COMPLETE, cli

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    click.echo(kind(cli, {}, "adapters", COMPLETE).source())


class WholeWords(BashComplete):
    """Bash breaks words at `@`, `:` and `=`, so that it would ask for `@2` where support@2 stands.

    Here it hands over the line instead, and gets back what belongs where its last word begins:
    with an `@`, which bash takes for the beginning of a host, but after any other break.
    """

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion
    response=$(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
    for completion in $response; do
        case "${completion%%,*}" in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${completion#*,}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        if not words or line[-1].isspace():
            return words, ""
        return words[:-1], words[-1]

    def format_completion(self, item: "CompletionItem[Any]") -> str:
        incomplete = self.get_completion_args()[1]
        breaks = os.environ["COMP_BREAKS"]
        last = max(incomplete.rfind(mark) + (mark != "@") for mark in breaks)
        return f"{item.type},{str(item.value).removeprefix(incomplete[: max(last, 0)])}"


add_completion_class(WholeWords)
