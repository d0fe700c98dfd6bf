import pytest

from adaptery.config import Resolved
from adaptery.errors import ConfigError
from adaptery.trainers.config import RunConfig
from adaptery.trainers.experiments.space import Dimension, grid_size, parse_space

Config = Resolved[RunConfig]


def test_lists_and_ranges_are_read(config: Config) -> None:
    space = parse_space(
        [
            "r=8,16",
            "learning_rate=1e-4:1e-2:log",
            "lora.dropout=0:0.2",
            "batch_size=2:8",
            "targets=attention,q_proj+v_proj",
            "options.ratio=4,16",
            "weight_decay=0,1e-4",
        ],
        config,
    )
    assert space == [
        Dimension("lora.r", (8, 16)),
        Dimension("training.learning_rate", low=1e-4, high=1e-2, log=True),
        Dimension("lora.dropout", low=0, high=0.2),
        Dimension("training.batch_size", low=2, high=8, whole=True),
        Dimension("lora.targets", ("attention", "q_proj,v_proj")),
        Dimension("options.ratio", (4, 16)),
        Dimension("training.weight_decay", (0, 1e-4)),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat=1,2", "There is no option 'learning_rat' to vary. Did you mean"),
        ("training.warmpu=0:0.1", "Did you mean 'training.warmup'"),
        ("r=abc,8", "'lora.r' cannot be 'abc' (from --space lora.r)"),
        ("dropout=0:2", "'lora.dropout' cannot be 2.0"),
        ("r=0:8:log", "is no range"),
        ("r=8:4", "is no range"),
        ("r=1:8:lgo", "is no range"),
        ("r=1:8:2", "is no range"),
        ("r", "is not KEY=VALUES"),
        ("r=", "is not KEY=VALUES"),
        ("r=8,8", "names a value twice"),
        ("targets=[q_proj]", "is no single value"),
        ("name=a,b", "must be the same in all trials"),
        ("evaluation.every=1,2", "must be the same in all trials"),
        ("task.way=words,head", "must be the same in all trials"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(
    config: Config, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_space([text], config)
    assert said in str(caught.value)


def test_an_option_is_searched_once(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"lora\.r twice"):
        parse_space(["r=8,16", "lora.r=4,8"], config)


def test_a_grid_has_points_only_of_lists(config: Config) -> None:
    assert grid_size(parse_space(["r=8,16", "alpha=8,16,32"], config)) == 6
    with pytest.raises(ConfigError, match=r"lora\.dropout is a range"):
        grid_size(parse_space(["r=8,16", "dropout=0:0.1"], config))
