"""What the command prints, and where."""

import importlib

import pytest

from adaptery.cli.commands import COMMANDS
from adaptery.cli.main import cli
from tests.cli.conftest import House
from tests.command import adapters, done


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_in_the_help_is_the_commands_own(name: str) -> None:
    module, summary = COMMANDS[name]
    command = getattr(importlib.import_module(f"adaptery.cli.{module}"), f"{name}_command")
    assert command.name == name
    assert command.get_short_help_str(200) == summary


def test_the_help_lists_every_command() -> None:
    lines = done("--help").out.splitlines()
    for name, (_, summary) in COMMANDS.items():
        assert any(line.split()[:1] == [name] and summary[:40] in line for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_in_which_every_option_says_what_it_is(name: str) -> None:
    assert "Usage: adapters" in done(name, "--help").out
    command = cli.get_command(None, name)
    assert command is not None
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{name} {parameter.opts}"


def test_no_command_at_all_shows_the_help() -> None:
    outcome = adapters()
    assert "Usage: adapters" in outcome.out + outcome.err
    assert outcome.code in (0, 2)


def test_the_version_is_one_line() -> None:
    assert done("--version").out.startswith("adaptery 0.")


@pytest.mark.parametrize("reason", ["fix [/bug]", "[red]alarm[/red]", ":smile: [link=x]", "a\nb"])
def test_what_users_write_is_shown_as_they_wrote_it(house: House, reason: str) -> None:
    """Brackets and colons mean something to the library that prints the tables."""
    done("promote", "colours@2", "--reason", reason, *house.at)
    text = done("history", "colours", *house.at).out
    for line in reason.splitlines():
        assert line in text


def test_tables_have_lines_as_long_as_they_are(house: House) -> None:
    """So that what is piped into other programs is whole."""
    reason = "because " + "of a long story " * 20 + "that ends here"
    done("promote", "colours@2", "--reason", reason, *house.at)
    lines = done("history", "colours", *house.at).out.splitlines()
    assert any(reason in line for line in lines)


def test_json_keeps_what_users_write(house: House) -> None:
    done("promote", "colours@2", "--reason", "größer 🙂 [x]", *house.at)
    assert done("history", "colours", "--json", *house.at).json[-1]["reason"] == "größer 🙂 [x]"


def test_methods_and_plugins_are_listed_for_people() -> None:
    methods = done("methods").out.splitlines()
    assert [line.split()[0] for line in methods] == [
        "method",
        "lora",
        "qlora",
        "loraplus",
        "adalora",
        "rslora",
        "dora",
        "pissa",
        "olora",
        "full",
    ]
    assert "training method" in done("plugins").out
    names = {thing["name"] for thing in done("plugins", "--json").json["registered"]}
    assert names >= {"lora", "torch", "merged", "accuracy", "messages", "by-name", "hf"}
