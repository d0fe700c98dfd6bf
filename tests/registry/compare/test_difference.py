"""`Registry.diff`: what is found to differ, and its arithmetic against dense matrices."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_torch

from adaptery.registry.compare.difference import changes
from adaptery.registry.compare.updates import Update, Updates, values
from adaptery.registry.gate.lora import WEIGHTS
from adaptery.types import AdapterRef, BaseIdentity
from tests.adapters import MODULES, lora_tensors, package, write_config, write_weights

FIRST, SECOND = AdapterRef("support", number=1), AdapterRef("support", number=2)
Q, V = MODULES


@pytest.fixture
def difference(registry, tmp_path):
    """Publishes two adapters, each by its tensors and configuration, and compares them."""

    def compare(before, after, old=None, new=None, **manifests):
        for side, (tensors, config) in enumerate([(before, old), (after, new)]):
            directory = tmp_path / f"side-{side}"
            directory.mkdir()
            write_weights(directory, tensors)
            write_config(directory, **(config or {}))
            about = {key: pair[side] for key, pair in manifests.items()}
            registry.publish("support", package(directory, **{"seed": side, **about}))
        return registry.diff(FIRST, SECOND)

    return compare


def dense(tensors, module, scale):
    """ΔW as it would be formed, in float64."""
    a, b = (tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
    return scale * b.astype(np.float64) @ a.astype(np.float64)


def assert_like_dense(change, old, new):
    before, after = np.linalg.norm(old), np.linalg.norm(new)
    assert change.before == pytest.approx(before, rel=1e-12)
    assert change.after == pytest.approx(after, rel=1e-12)
    assert change.relative == pytest.approx(np.linalg.norm(old - new) / before, rel=1e-9)
    assert change.cosine == pytest.approx(np.sum(old * new) / (before * after), abs=1e-12)


def test_norms_and_cosines_are_those_of_dense_matrices(difference):
    old, new = lora_tensors(seed=1), lora_tensors(seed=2)
    found = difference(old, new).weights
    assert [change.module for change in found.modules] == list(MODULES)
    for change in found.modules:
        assert_like_dense(change, dense(old, change.module, 2), dense(new, change.module, 2))


def test_ranks_scales_and_patterns_count(difference):
    old = lora_tensors([Q], r=2, seed=1) | lora_tensors([V], r=8, seed=2)
    new = lora_tensors([Q], r=4, seed=3) | lora_tensors([V], r=4, seed=4)
    found = difference(
        old,
        new,
        {"r": 2, "lora_alpha": 3, "rank_pattern": {"v_proj": 8}, "alpha_pattern": {V: 5}},
        {"r": 4, "lora_alpha": 6, "use_rslora": True, "alpha_pattern": {".*q_proj": 7}},
    ).weights
    q, v = found.modules
    assert_like_dense(q, dense(old, Q, 3 / 2), dense(new, Q, 7 / 2))
    assert_like_dense(v, dense(old, V, 5 / 8), dense(new, V, 6 / 2))


def test_a_difference_in_the_last_bits_is_not_lost_to_rounding():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(4, 30)), random.normal(size=(20, 4))
    step = 1e-11 * random.normal(size=b.shape)
    relative = Update(a, b).minus(Update(a, b + step)).norm / Update(a, b).norm
    assert relative == pytest.approx(np.linalg.norm(step @ a) / np.linalg.norm(b @ a), rel=1e-3)


def test_the_same_weights_differ_by_nothing(difference):
    tensors = lora_tensors(seed=1)
    for change in difference(tensors, tensors).weights.modules:
        assert change.relative == 0
        assert change.cosine == pytest.approx(1)


def test_twice_the_alpha_is_twice_the_update(difference):
    tensors = lora_tensors(seed=1)
    found = difference(tensors, tensors, {"lora_alpha": 8}, {"lora_alpha": 16})
    for change in found.weights.modules:
        assert change.after == pytest.approx(2 * change.before)
        assert (change.relative, change.cosine) == (pytest.approx(1), pytest.approx(1))
    assert [(c.field, c.before, c.after) for c in found.changes if "alpha" in c.field] == [
        ("adapter_config.json.lora_alpha", 8, 16)
    ]


def test_an_untrained_side_has_no_direction(difference):
    old, new = lora_tensors(seed=1), lora_tensors(seed=2)
    for name in new:
        if "lora_B" in name:
            new[name] *= 0
    for change in difference(old, new).weights.modules:
        assert (change.after, change.relative, change.cosine) == (0, pytest.approx(1), None)


def test_modules_of_one_side_only_are_named(difference):
    config = {"target_modules": ["q_proj"]}
    found = difference(
        lora_tensors([Q], seed=1), lora_tensors([V], seed=2), config, {"target_modules": ["v_proj"]}
    )
    assert (found.weights.only_before, found.weights.only_after) == ((Q,), (V,))
    assert found.weights.modules == ()


def test_weights_of_different_shapes_have_norms_only(difference):
    old, new = lora_tensors(width=16, seed=1), lora_tensors(width=20, seed=1)
    for change in difference(old, new).weights.modules:
        assert change.after == pytest.approx(np.linalg.norm(dense(new, change.module, 2)))
        assert (change.relative, change.cosine) == (None, None)


def test_tensors_beside_the_pairs_are_compared_by_their_bytes(difference):
    old, new = lora_tensors(seed=1), lora_tensors(seed=1)
    names = [f"base_model.model.{module}.lora_magnitude_vector.weight" for module in MODULES]
    for name in names:
        old[name], new[name] = np.ones(16, np.float32), np.ones(16, np.float32)
    new[names[1]][3] = 2
    found = difference(old, new, {"use_dora": True}, {"use_dora": True}).weights
    assert found.others == (names[1],)
    assert "without DoRA's magnitudes" in found.sentence


@pytest.mark.parametrize("same", [True, False])
def test_other_methods_are_compared_by_the_files_digest(difference, same):
    tensors = {"base_model.model.layer.ia3_l": np.ones(4, np.float32)}
    other = tensors if same else {name: 2 * value for name, value in tensors.items()}
    found = difference(tensors, other, {"peft_type": "IA3"}, {"peft_type": "IA3"}).weights
    assert found.modules == ()
    verdict = "the same" if same else "not the same"
    assert found.sentence.endswith(
        f"this is IA3: by their digests, the files of the weights are {verdict}."
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_every_dtype_is_read_as_torch_reads_it(tmp_path, dtype):
    tensors = {
        name: torch.from_numpy(tensor).to(dtype) for name, tensor in lora_tensors(seed=3).items()
    }
    save_torch(tensors, tmp_path / WEIGHTS)
    write_config(tmp_path)
    update = Updates(tmp_path)[Q]
    expected = tensors[f"base_model.model.{Q}.lora_A.weight"].double().numpy()
    assert np.array_equal(update.a, expected)


def test_bfloat16_is_read_without_torch():
    assert list(values(b"\x80\x3f\x00\xc0\x49\x40", "BF16")) == [1.0, -2.0, 3.140625]


def test_what_versions_were_made_from_is_compared_key_by_key(difference):
    tensors = lora_tensors(seed=1)
    found = difference(
        tensors,
        lora_tensors(seed=2),
        config=(
            {"training": {"epochs": 1, "lr": 1e-3}, "lora": {"r": 4}},
            {"training": {"epochs": 2, "lr": 1e-3}, "lora": {"r": 4, "targets": ["q_proj"]}},
        ),
        data_digest=("a" * 64, "b" * 64),
        packages=({"torch": "2.9", "peft": "0.19"}, {"torch": "2.10", "peft": "0.19"}),
        metrics=({"f1": 0.5, "loss": 1.0}, {"f1": 0.75, "accuracy": 0.9}),
    )
    assert [(change.field, change.before, change.after) for change in found.changes] == [
        ("config.lora.targets", None, ["q_proj"]),
        ("config.training.epochs", 1, 2),
        ("data_digest", "a" * 64, "b" * 64),
        ("packages.torch", "2.9", "2.10"),
        ("seed", 0, 1),
    ]
    assert [(score.metric, score.before, score.after, score.delta) for score in found.scores] == [
        ("accuracy", None, 0.9, None),
        ("f1", 0.5, 0.75, 0.25),
        ("loss", 1.0, None, None),
    ]
    assert [file.path for file in found.files] == [WEIGHTS]
    assert found.files[0].before.sha256 != found.files[0].after.sha256


def test_a_base_that_only_moved_is_not_the_same_place(difference):
    bases = (BaseIdentity(id="a", digest="d" * 64), BaseIdentity(id="b", digest="d" * 64))
    tensors = lora_tensors(seed=1)
    fields = [change.field for change in difference(tensors, tensors, base=bases).changes]
    assert fields == ["base.id", "seed"]


def test_nested_values_are_compared_as_far_as_they_nest():
    before = {"a": {"b": {"c": 1, "d": [1]}}, "e": None, "f": {}}
    after = {"a": {"b": {"c": 1, "d": [2]}, "x": {"y": 0}}, "g": False}
    assert [(c.field, c.before, c.after) for c in changes(before, after)] == [
        ("a.b.d", [1], [2]),
        ("a.x.y", None, 0),
        ("g", None, False),
    ]
