"""Bad input gets a sentence and its exit code; nothing is written and nothing lost."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptery.errors import RegistryError
from adaptery.registry.local import LocalRegistry
from tests.cli.conftest import House
from tests.command import Outcome, adapters, done
from tests.models import write_rows, write_tiny_base
from tests.trainers.runs import rows


def refused(house: House, code: int, pattern: str, *arguments: object) -> Outcome:
    """Run a command that must fail so, and leave the house as it is."""
    before = house.tree()
    outcome = adapters(*arguments)
    assert outcome.code == code, (outcome.out, outcome.err)
    assert re.search(pattern, outcome.err, re.DOTALL), outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert house.tree() == before
    return outcome


def test_a_missing_data_file(bare: House) -> None:
    missing = bare.root / "missing.jsonl"
    refused(bare, 3, rf"error: There is no data file {missing}", *bare.train("--data", missing))


def test_a_malformed_row(bare: House) -> None:
    path = bare.root / "train.jsonl"
    path.write_text(path.read_text() + '{"messages": [{"role": "human", "content": "q"}]}\n')
    refused(bare, 3, rf"{path}:25: role 'human' is none of", *bare.train())


def test_held_out_rows_that_are_trained_on(bare: House) -> None:
    leaked = write_rows(bare.root / "leak.jsonl", rows(1))
    refused(bare, 3, r"leak\.jsonl:1 is .*train\.jsonl:1", *bare.train("--eval-data", leaked))


def test_rows_that_are_too_long(bare: House) -> None:
    refused(bare, 3, "data.max_length=12", *bare.train("--max-length", 12))


@pytest.mark.parametrize(
    ("more", "pattern"),
    [
        (["--method", "qlroa"], "no training method 'qlroa'. Did you mean 'qlora'?"),
        (["--option", "ratio=2"], "no option 'ratio'"),
        (
            ["--method", "loraplus", "--option", "ratoi=2"],
            r"no option 'ratoi'.*Did you mean 'ratio'\?",
        ),
        (["--method", "loraplus", "--option", "ratio"], "KEY=VALUE"),
        (["--epoch", 3], "No such option.*--epoch"),
        (["--rank", "many"], r"'lora\.r' cannot be 'many' \(from flag --rank\)"),
        (["--rank", 0], r"'lora\.r' cannot be '?0'? \(from flag --rank\)"),
        (["--learning-rate", "nan"], "learning_rate' cannot be"),
        (["--preset", "tiny", "--epochs", -1], r"epochs' cannot be '-1' \(from flag --epochs\)"),
        (["--preset", "huge"], "huge"),
        (["--targets", "q_porj"], "no linear layer in this model 'q_porj'. Did you mean 'q_proj'?"),
        (["--targets", ""], "name at least one target"),
        (["--base", "./nowhere"], "no directory './nowhere'"),
        (["--base", "org/nothing"], "'org/nothing' is not a directory here and could not be had"),
        (["--name", "My Adapter"], "'My Adapter' cannot name an adapter"),
        (["--set", "training.sed=1"], r"no option 'training\.sed' \(from --set\). Did you mean"),
        (["--set", "training.seed"], "KEY=VALUE"),
        (["--set", "training=1", "--set", "training.seed=2"], "training"),
        (["--set", "training.seed=["], "cannot be read"),
        (["--set", "evaluation.metrics=[f2]"], "no metric 'f2'"),
        (["--set", "data.format=mesages"], "no data format 'mesages'. Did you mean 'messages'?"),
        (["--registry", "s4://bucket"], "no registry backend 's4'"),
        (["--method", "adalora", "--max-steps", 3], "AdaLoRA has .* steps in which to move ranks"),
    ],
)
def test_a_wrong_option_of_a_run(bare: House, more: list[object], pattern: str) -> None:
    refused(bare, 2, pattern, *bare.train(*more))


def test_a_missing_option_is_named(bare: House) -> None:
    outcome = refused(bare, 2, "'name' is missing", "train", *bare.at)
    assert "'base' is missing" in outcome.err
    assert "'data' is missing" in outcome.err


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("trainning: {seed: 1}\n", r"no option 'trainning' \(from file .*run\.yaml\)"),
        ("training: {sed: 1}\n", r"'training\.sed' \(from file .*run\.yaml\). Did you mean"),
        ("training: {seed: x}\n", r"'training\.seed' cannot be 'x' \(from file .*run\.yaml\)"),
        ("training: [\n", r"run\.yaml cannot be read"),
        ("- 1\n", r"run\.yaml must be a mapping"),
        ("training: {seed: 1}\ntraining: {epochs: 1}\n", "'training' stands there twice"),
    ],
)
def test_a_wrong_file(bare: House, text: str, pattern: str) -> None:
    (bare.root / "run.yaml").write_text(text)
    refused(bare, 2, pattern, *bare.train(bare.root / "run.yaml"))


def test_a_missing_file(bare: House) -> None:
    refused(bare, 2, r"missing\.yaml cannot be read", *bare.train(bare.root / "missing.yaml"))


def test_a_wrong_variable(bare: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERS_TRAINING_SED", "1")
    refused(bare, 2, "Did you mean 'ADAPTERS_TRAINING_SEED'", *bare.train())


def test_options_beside_resume(bare: House) -> None:
    refused(bare, 2, "--resume goes on with the run's own", *bare.train("--resume", bare.root))


def test_a_resumed_folder_that_is_no_run(bare: House) -> None:
    refused(bare, 2, r"config\.yaml", "train", "--resume", bare.root, *bare.at)


@pytest.mark.parametrize("command", ["trian", "Train", "promot"])
def test_an_unknown_command(bare: House, command: str) -> None:
    refused(bare, 2, f"no command '{command}'. Did you mean", command)


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "show": lambda ref: ["show", ref],
    "promote": lambda ref: ["promote", ref],
    "merge": lambda ref: ["merge", ref, "--output", "never"],
    "chat": lambda ref: ["chat", ref, "--prompt", "hello"],
    "publish": lambda ref: ["publish", ref, "hf://org/colours"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("ref", "pattern"),
    [
        ("colour", r"no adapter 'colour'.*Did you mean 'colours'\?"),
        ("colours@9", r"colours.*9.*1.*2"),
        ("colours@canary", r"canary.*live"),
        ("colours@sha256:00000000", "00000000"),
        ("colours@", "canary|alias|reference"),
        ("../colours", "cannot name an adapter"),
    ],
)
def test_a_reference_that_means_nothing(house: House, command: str, ref: str, pattern: str) -> None:
    refused(house, 2, pattern, *COMMANDS[command](ref), *house.at)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["list", "colour"], r"no adapter 'colour'.*Did you mean 'colours'"),
        (["history", "colour"], r"no adapter 'colour'.*Did you mean 'colours'"),
        (["rollback", "colour"], r"no adapter 'colour'.*Did you mean 'colours'"),
        (["rollback", "colours"], "nothing|earlier|before"),
        (["rollback", "colours", "--to", "9"], "9"),
        (["rollback", "colours", "--alias", "canary"], "canary"),
        (["promote", "colours@2", "--alias", "latest"], "'latest' cannot be an alias"),
        (["promote", "colours@2", "--alias", "v2"], "'v2' cannot be an alias"),
        (["export", "colours@2", "--to", "mergd", "--output", "x"], "no exporter 'mergd'"),
        (["merge", "colours@2"], "--output"),
        (["publish", "colours@2", "org/colours"], "is not a remote reference"),
        (["publish", "colours@2", "hf://org/colours@v3"], "keeps its own number"),
        (["pull", "colours"], "is not a remote reference"),
        (["chat", "colours@2", "--engine", "touch", "--prompt", "x"], "no engine 'touch'"),
    ],
)
def test_what_makes_no_sense(house: House, arguments: list[str], pattern: str) -> None:
    refused(house, 2, pattern, *arguments, *house.at)


@pytest.mark.parametrize(
    "arguments", [["show", "colours"], ["history", "colours"], ["promote", "colours@1"]]
)
def test_a_registry_that_is_not_there_is_not_made(bare: House, arguments: list[str]) -> None:
    refused(bare, 2, "no adapter 'colours'", *arguments, *bare.at)


def test_an_adapter_of_another_base(house: House, tmp_path: Path) -> None:
    other = write_tiny_base(tmp_path / "other", seed=1)
    output = house.root / "merged"
    outcome = refused(
        house,
        2,
        r"colours@1 was trained on .*, but the base here is",
        *("merge", "colours@1", "--base", other, "--output", output, *house.at),
    )
    assert str(other) in outcome.err
    refused(house, 2, "was trained on", "chat", "colours@1", "--base", other, *house.at)


def test_the_same_base_elsewhere_is_taken(house: House, tmp_path: Path) -> None:
    moved = shutil.copytree(house.base, tmp_path / "moved")
    outcome = adapters(
        "merge", "colours@1", "--base", moved, "--output", house.root / "merged", *house.at
    )
    assert outcome.code == 0


def test_an_output_that_is_there_already(house: House) -> None:
    output = house.root / "merged"
    output.mkdir()
    (output / "precious").write_text("keep me")
    refused(house, 2, "is there already", "merge", "colours@1", "--output", output, *house.at)
    assert (output / "precious").read_text() == "keep me"


@pytest.mark.parametrize("command", ["merge", "chat", "publish"])
def test_a_corrupted_adapter_file(house: House, command: str) -> None:
    shutil.rmtree(house.registry / "checkouts", ignore_errors=True)
    blobs = [path for path in (house.registry / "blobs").rglob("*") if path.is_file()]
    for blob in blobs:
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.chmod(0o644)
        blob.write_bytes(data)
    arguments = COMMANDS[command]("colours@1")
    outcome = adapters(*arguments, *house.at)
    assert outcome.code == 5, outcome.err
    assert re.search("[0-9a-f]{12}", outcome.err)
    assert not Path("never").exists()


def test_a_corrupted_catalogue(house: House) -> None:
    (catalogue,) = house.registry.glob("*.sqlite3")
    catalogue.write_bytes(b"this is no database" * 100)
    outcome = adapters("list", *house.at)
    assert outcome.code in (1, 5)
    assert str(house.registry) in outcome.err
    assert "Traceback" not in outcome.err


def test_a_port_in_use(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(
            house,
            2,
            rf"127\.0\.0\.1:{port} cannot be used.*--port",
            *("serve", "--base", house.base, "--port", port, *house.at),
        )


@pytest.mark.parametrize(
    ("more", "pattern"),
    [
        (["--engine", "touch"], "no engine 'touch'"),
        (["--router", "by-nam"], "no request router 'by-nam'. Did you mean 'by-name'"),
        (["--base", "./nowhere"], "no directory './nowhere'"),
        (["--port", "many"], r"'port' cannot be 'many' \(from flag --port\)"),
        (["--max-sequences", "0"], "'max_sequences' cannot be '0'"),
    ],
)
def test_a_wrong_option_of_a_server(house: House, more: list[str], pattern: str) -> None:
    refused(house, 2, pattern, "serve", "--base", house.base, *more, *house.at)


def test_an_error_keeps_brackets_as_they_are(bare: House) -> None:
    """They mean colour to the library that prints the tables."""
    folder = bare.root / "a [red]folder[/red]"
    folder.mkdir(parents=True)
    missing = folder / "rows.jsonl"
    refused(bare, 3, re.escape(str(missing)), *bare.train("--data", missing))


def test_what_was_trained_survives_a_registry_that_refuses_it(
    bare: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RegistryError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(LocalRegistry, "publish", refuse)
        outcome = adapters(*bare.train())
    assert outcome.code == 1
    assert "The disk is full." in outcome.err
    (run,) = (bare.root / "runs").iterdir()
    assert f"adapters train --resume {run}\n" in outcome.err
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    again = done("train", "--resume", run, "--json", *bare.at).json
    assert (again["name"], again["version"]) == ("colours", 1)
    assert json.loads((run / "result.json").read_text())["method"] == "lora"
