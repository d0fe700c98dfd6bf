"""Whatever comes, in whatever order: each answer is what transformers and PEFT give it alone."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from adaptery.base_model import LocalBase
from adaptery.serving.torch.blocks import needed
from tests.serving import models
from tests.serving.torch.rig import Asked, Play, Rig, Truth

FEW, MANY = 25, 2000  # schedules in `make test` and in `make torture`
LONGEST = 36  # tokens of an answer
TEXT = [(11 * i) % 113 + 5 for i in range(60)]
PROMPTS = [TEXT[:length] for length in (1, 15, 16, 17, 33, 49, 60)] + [
    [*TEXT[:32], 90, 91, 92],
    [*TEXT[:32], *[17] * 30],
    TEXT[5:25],
]
NEEDED = needed(max(map(len, PROMPTS)) + LONGEST)

request = st.tuples(
    st.integers(0, 6),
    st.sampled_from(range(len(PROMPTS))),
    st.sampled_from([1, 2, 17, LONGEST]),
    st.sampled_from(["one", "two"]),
)
event = st.one_of(
    st.tuples(st.just("arrive"), st.lists(request, min_size=1, max_size=6)),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("read")),
    st.tuples(st.just("step"), st.integers(1, 12), st.sampled_from([0.01, 1.0, 30.0])),
)
BUSY = [  # has all that a schedule should have happen
    ("arrive", [(who, what, LONGEST, "one") for who in (0, 1, 2, 0) for what in (6, 2, 4)]),
    ("step", 2, 1.0),
    ("cancel", 0),
    ("read",),
    ("step", 2, 1.0),
    ("cancel", 5),
    ("arrive", [(who, 5, 17, "two") for who in range(7)]),
    ("step", 12, 0.01),
    ("cancel", 3),
]
MANNERS = {
    "blocks": st.sampled_from([NEEDED, NEEDED + 1, NEEDED + 3, 3 * NEEDED]),
    "residents": st.sampled_from([6, 3, 1]),
    "max_sequences": st.sampled_from([8, 3, 1]),
    "step_tokens": st.sampled_from([200, 16, 5]),
}
WITNESSED = {
    "preempted",
    "parked",
    "prefix found",
    "reloaded",
    "prompt in pieces",
    "mixed step",
    "cancelled in the prompt",
    "cancelled while its adapter is read",
}


@pytest.fixture(scope="module")
def directories(
    adapters: dict[str, Path], base_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Six adapters of ranks from 1 to 33, on all linear layers or few of one."""
    root = tmp_path_factory.mktemp("more")
    one = {"r": 1, "target_modules": ["gate_proj"], "layers_to_transform": [1]}
    large = {"r": 33, "lora_alpha": 20, "target_modules": ["k_proj", "o_proj", "down_proj"]}
    more = {
        name: models.write_adapter(root / name, base_directory, 40 + seed, **config)
        for seed, (name, config) in enumerate({"one": one, "large": large}.items())
    }
    return {**adapters, **more}


@pytest.fixture(scope="module", params=[True, False], ids=["own", "torch"])
def rig(request: pytest.FixtureRequest, base: LocalBase, directories: dict[str, Path]) -> Rig:
    """With our kernels, and with PyTorch's operations."""
    return Rig.of(base, directories, kernels=request.param)


@pytest.fixture(scope="module")
def truth(base_directory: Path, directories: dict[str, Path]) -> Truth:
    return Truth.of(base_directory, directories, LONGEST)


def act(play: Play, event: Sequence, names: list[str | None], prefixes: bool) -> None:
    """Let one thing happen."""
    match event:
        case ("arrive", requests):
            for who, what, wanted, tenant in requests:
                name, number = names[who], play.seen["requests"]
                seed = f"{tenant} {name}" if prefixes else str(number)
                play.ask(name, PROMPTS[what], wanted, seed.encode())
        case ("cancel", which):
            if waiting := [a for a in play.asked.values() if not a.finished]:
                play.cancel(waiting[which % len(waiting)])
        case ("read",):
            play.read()
        case ("step", count, seconds):
            for _ in range(count):
                play.step(seconds)


def require_true(asked: Asked, truth: Truth) -> None:
    expected = truth.answer(asked.name, asked.prompt, asked.wanted)
    assert asked.error is None
    assert asked.tokens == expected, f"{asked.name} after {len(asked.prompt)} tokens"


@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.torture)])
def test_any_schedule_gives_every_request_its_own_answer(
    rig: Rig,
    truth: Truth,
    examples: int,
) -> None:
    names = [None, *rig.directories]
    seen: Counter[str] = Counter()
    roomy = {"blocks": NEEDED, "residents": 6, "max_sequences": 8, "step_tokens": 200}

    @settings(
        max_examples=examples,
        derandomize=examples == FEW,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @example(roomy | {"residents": 1, "step_tokens": 5}, True, BUSY)
    @example(roomy, False, BUSY)
    @given(
        manners=st.fixed_dictionaries(MANNERS),
        prefixes=st.booleans(),
        events=st.lists(event, min_size=8, max_size=30),
    )
    def play(manners: dict[str, int], prefixes: bool, events: list) -> None:
        play = Play(rig, seen=seen, **manners)
        for event in events:
            act(play, event, names, prefixes)
        play.finish()
        for asked in play.asked.values():
            require_true(asked, truth)
            seen["answers"] += 1
        seen["plays"] += 1

    play()
    print(dict(seen))
    assert {what for what in WITNESSED if seen[what]} == WITNESSED
