from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, field_validator

from adaptery.config import (
    Config,
    Layer,
    read_assignments,
    read_environment,
    read_file,
    resolve,
)
from adaptery.errors import ConfigError
from adaptery.trainers.config import RunConfig
from adaptery.trainers.run_directory import RunDirectory
from adaptery.types import check_name


class Group(Config):
    seed: int = 0
    rate: Annotated[float, Field(gt=0)] = 1.0
    targets: Literal["all", "some"] | tuple[str, ...] = "all"


class Example(Config):
    name: str = "x"
    group: Group = Group()
    other: Group = Group()
    options: dict[str, Any] = Field({})

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        return check_name(name)


def flags(**values: Any) -> Layer:
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return Layer.of(dotted, "flag")


def explained(*layers: Layer) -> str:
    with pytest.raises(ConfigError) as error:
        resolve(Example, layers)
    return str(error.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_later_layers_win_field_by_field(tmp_path: Path) -> None:
    file = read_file(write(tmp_path / "c.yaml", "group: {seed: 1, rate: 2.0}\nname: from-file\n"))
    resolved = resolve(Example, [file, read_assignments(["group.seed=3"]), flags(name="flagged")])
    assert resolved.value == Example(name="flagged", group=Group(seed=3, rate=2.0))


def test_every_value_that_is_no_default_knows_where_it_came_from(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "group: {seed: 1, rate: 2.0}\n")
    environment = {"ADAPTERS_OTHER_SEED": "7"}
    resolved = resolve(
        Example,
        [
            read_file(path),
            read_environment(Example, environment),
            read_assignments(["group.seed=3"]),
            flags(name="n"),
        ],
    )
    assert resolved.origins == {
        "group.rate": f"file {path}",
        "other.seed": "environment ADAPTERS_OTHER_SEED",
        "group.seed": "--set",
        "name": "flag",
    }


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("0.5", 0.5), ("2", 2.0), ("1.0e-4", 1e-4)]
)
def test_numbers_are_read_however_yaml_spells_them(text: str, value: float) -> None:
    assert resolve(Example, [read_assignments([f"group.rate={text}"])]).value.group.rate == value


def test_a_misspelled_key_is_named_with_its_origin_and_the_nearest_one(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "group: {sed: 1}\n")
    message = explained(read_file(path))
    assert "There is no option 'group.sed'" in message
    assert f"(from file {path})" in message
    assert "Did you mean 'group.seed'?" in message


def test_a_misspelled_group_is_named_with_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "gruop: {seed: 1}\n")
    message = explained(read_file(path))
    assert "There is no option 'gruop'" in message
    assert f"(from file {path})" in message


def test_every_wrong_value_is_named_at_once() -> None:
    message = explained(flags(group__seed="x", group__rate=-1, nonsense=1))
    assert len(message.splitlines()) == 3
    for part in ("'group.seed' cannot be 'x' (from flag)", "'group.rate' cannot be -1", "nonsense"):
        assert part in message


def test_the_origin_of_a_wrong_value_is_the_layer_that_won(tmp_path: Path) -> None:
    below = Layer(
        {"group": {"seed": 1, "rate": 2}}, {"group.seed": "preset", "group.rate": "preset"}
    )
    assert "(from flag)" in explained(below, flags(group__seed="x"))


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "[1]", "text"])
def test_a_rate_must_be_a_positive_number(value: str) -> None:
    assert "'group.rate' cannot be" in explained(read_assignments([f"group.rate={value}"]))


def test_a_choice_is_named_by_its_key_and_the_choices() -> None:
    message = explained(flags(group__targets=5))
    assert "'group.targets' cannot be 5 (from flag)" in message
    assert "'all'" in message
    assert "literal" not in message


def test_a_validators_sentence_ends_once() -> None:
    message = explained(flags(name="A B"))
    assert "'A B' cannot name an adapter" in message
    assert not message.endswith("..")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("seed", "KEY=VALUE"), ("=1", "KEY=VALUE"), ("group.seed=[", "cannot be read")],
)
def test_a_broken_assignment_is_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_assignments([text])


@pytest.mark.parametrize(
    "assignments",
    [
        ["group=1", "group.seed=2"],
        ["group.seed=2", "group=1"],
        ["group.seed.x=2"],
        [".=1"],
        ["group.=1"],
    ],
)
def test_assignments_that_make_no_sense_together_are_a_sentence(assignments: list[str]) -> None:
    with pytest.raises(ConfigError):
        resolve(Example, [read_assignments(assignments)])


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "", "group: [", "? [1]\n: 2\n", "1: 2\n"])
def test_a_broken_file_is_a_sentence_that_names_it(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError) as error:
        resolve(Example, [read_file(path)])
    assert "c.yaml" in str(error.value)


def test_a_group_that_stands_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "group:\n  seed: 1\ngroup:\n  rate: 2\n")
    with pytest.raises(ConfigError, match="'group' stands there twice"):
        read_file(path)


def test_a_missing_or_binary_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        read_file(tmp_path / "missing.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"b\.yaml"):
        read_file(tmp_path / "b.yaml")


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError):
        read_file(path)


def test_a_variable_sets_a_field() -> None:
    layer = read_environment(Example, {"ADAPTERS_GROUP_SEED": "5", "HOME": "/root"})
    assert resolve(Example, [layer]).value.group.seed == 5


def test_a_variable_may_hold_digits_where_text_is_wanted() -> None:
    layer = read_environment(Example, {"ADAPTERS_NAME": "2024"})
    assert resolve(Example, [layer]).value.name == "2024"


def test_an_assignment_may_hold_digits_where_text_is_wanted() -> None:
    assert resolve(Example, [read_assignments(["name=2024"])]).value.name == "2024"


def test_a_misspelled_variable_of_a_group_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'ADAPTERS_GROUP_SEED'"):
        read_environment(Example, {"ADAPTERS_GROUP_SED": "5"})


def test_a_variable_that_cannot_be_read_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="ADAPTERS_GROUP_SEED"):
        read_environment(Example, {"ADAPTERS_GROUP_SEED": "["})


def test_options_of_a_method_merge_key_by_key(tmp_path: Path) -> None:
    file = read_file(write(tmp_path / "c.yaml", "options: {ratio: 2, other: 3}\n"))
    resolved = resolve(Example, [file, read_assignments(["options.ratio=4"])])
    assert resolved.value.options == {"ratio": 4, "other": 3}


def test_a_missing_option_says_how_to_give_it() -> None:
    with pytest.raises(ConfigError) as error:
        resolve(RunConfig, [])
    assert "'name' is missing" in str(error.value)
    assert "--set name=" in str(error.value)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Example().name = "y"


def test_what_a_run_writes_down_reads_back_as_the_same_configuration(tmp_path: Path) -> None:
    layer = Layer.of(
        {
            "name": "a-1",
            "base": "org/base ü",
            "data.train": "a b.jsonl",
            "lora.targets": "q_proj,v_proj",
            "evaluation.metrics": ("accuracy",),
            "training.learning_rate": 1e-5,
            "options.ratio": 2.5,
            "runs": str(tmp_path / "runs"),
        },
        "flag",
    )
    resolved = resolve(RunConfig, [layer])
    run = RunDirectory.create(resolved)
    assert resolve(RunConfig, [read_file(run.path / "config.yaml")]).value == resolved.value
    assert "# data.train: flag" in (run.path / "config.yaml").read_text(encoding="utf-8")
