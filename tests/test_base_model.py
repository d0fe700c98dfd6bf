import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adaptery.base_model import LocalBase, base_digest, describe, open_base
from adaptery.errors import BaseMismatch, BaseNotFound
from adaptery.types import BaseIdentity, Manifest
from tests.hub_peer import HubPeer
from tests.models import write_tiny_base

WEIGHTS = "model.safetensors"


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the base that a test may spoil."""
    return Path(shutil.copytree(tiny_base, tmp_path / "copy"))


def change_config(base: Path, **changes: object) -> None:
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensor(base: Path, name: str, index: int) -> None:
    tensors = load_file(base / WEIGHTS)
    tensors[name].view(-1)[index] += 1
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})


def test_a_base_is_the_same_wherever_it_lies(tiny_base: Path, copy: Path) -> None:
    assert open_base(str(copy)).identity.digest == open_base(str(tiny_base)).identity.digest
    assert open_base(str(copy)).identity.id == str(copy)


def test_two_trainings_of_one_shape_are_two_bases(tiny_base: Path, tmp_path: Path) -> None:
    other = write_tiny_base(tmp_path / "other", seed=1)
    assert base_digest(other) != base_digest(tiny_base)


@pytest.mark.parametrize("index", [0, -1])
def test_a_changed_end_of_one_tensor_is_another_base(
    tiny_base: Path, copy: Path, index: int
) -> None:
    change_tensor(copy, "model.layers.1.mlp.down_proj.weight", index)
    assert base_digest(copy) != base_digest(tiny_base)


def test_the_digest_does_not_depend_on_how_weights_are_split(tiny_base: Path, copy: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    (copy / WEIGHTS).unlink()
    model.save_pretrained(copy, max_shard_size="100KB")
    assert len(list(copy.glob("*.safetensors"))) > 1
    assert base_digest(copy) == base_digest(tiny_base)


def test_the_digest_does_not_depend_on_what_does_not_change_the_model(
    tiny_base: Path, copy: Path
) -> None:
    change_config(
        copy,
        transformers_version="4.0.0",
        torch_dtype="bfloat16",
        dtype="float16",
        use_cache=False,
        _name_or_path="/elsewhere",
    )
    tensors = load_file(copy / WEIGHTS)
    save_file(tensors, copy / WEIGHTS, metadata={"written_by": "somebody"})
    (copy / "README.md").write_text("hello")
    assert base_digest(copy) == base_digest(tiny_base)


@pytest.mark.parametrize("change", [{"rms_norm_eps": 1e-5}, {"num_attention_heads": 2}])
def test_a_changed_architecture_is_another_base(
    tiny_base: Path, copy: Path, change: dict[str, object]
) -> None:
    change_config(copy, **change)
    assert base_digest(copy) != base_digest(tiny_base)


def test_weights_in_another_number_format_are_another_base(tiny_base: Path, copy: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(copy / WEIGHTS).items()}
    save_file(tensors, copy / WEIGHTS)
    assert base_digest(copy) != base_digest(tiny_base)


def test_an_infinity_in_the_configuration_is_no_obstacle(copy: Path) -> None:
    """Some published models have one."""
    before = base_digest(copy)
    change_config(copy, limit=[0.0, float("inf")])
    assert base_digest(copy) != before


def test_a_missing_directory_is_a_sentence() -> None:
    with pytest.raises(BaseNotFound, match=r"There is no directory '\./nowhere'"):
        open_base("./nowhere")


def test_a_model_that_the_hub_cannot_give_is_a_sentence() -> None:
    with pytest.raises(BaseNotFound) as error:
        open_base("org/no-such-model")
    message = str(error.value)
    assert "'org/no-such-model'" in message
    assert "check the name and the network" in message
    assert "\n" not in message


@pytest.fixture
def hub(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Hub that has the tiny base as `org/base`; yields that model's commit."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubPeer(tmp_path / "peer") as peer:
        monkeypatch.setenv("HF_ENDPOINT", peer.url)
        api = huggingface_hub.HfApi(endpoint=peer.url)
        api.create_repo("org/base")
        yield str(api.upload_folder(repo_id="org/base", folder_path=tiny_base).oid)


def test_a_base_from_the_hub_is_known_by_its_commit(tiny_base: Path, hub: str) -> None:
    identity = open_base("org/base").identity
    assert identity == BaseIdentity(id="org/base", revision=hub, digest=base_digest(tiny_base))
    assert open_base("org/base", hub).identity == identity


def test_what_the_hub_does_not_have_is_a_sentence(hub: str) -> None:
    with pytest.raises(BaseNotFound, match=r"'org/none' .* no such model"):
        open_base("org/none")
    with pytest.raises(BaseNotFound, match=r"'org/base' .* not the revision 'nope'"):
        open_base("org/base", "nope")


@pytest.mark.parametrize("base", ["", "a b", "org/../../etc", "-x", "a--b..c", "ü/ü"])
def test_what_cannot_be_a_base_is_a_sentence(base: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseNotFound):
        open_base(base)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_base_that_lacks_a_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BaseNotFound) as error:
        open_base(str(copy))
    assert str(copy) in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"text"'])
def test_a_broken_configuration_is_a_sentence(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(BaseNotFound, match=r"config\.json"):
        open_base(str(copy))


def spoilt(whole: bytes) -> dict[str, bytes]:
    """What may have become of a safetensors file."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def again(header: object) -> bytes:
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + length :]

    return {
        "empty": b"",
        "short": whole[:5],
        "half a header": whole[:100],
        "an absurd length": b"\xff" * 8 + whole[8:],
        "no JSON": whole[:8] + b"x" * length + whole[8 + length :],
        "a list": again([]),
        "an entry that is no object": again(header | {"extra": 5}),
        "negative offsets": again(header | {"extra": {"data_offsets": [-8, -4]}}),
        "cut off": whole[:-10],
    }


@pytest.mark.parametrize("how", list(spoilt(b"\2" + bytes(7) + b"{}")))
def test_broken_weights_are_a_sentence_that_names_the_file(copy: Path, how: str) -> None:
    path = copy / WEIGHTS
    path.write_bytes(spoilt(path.read_bytes())[how])
    with pytest.raises(BaseNotFound, match=WEIGHTS):
        open_base(str(copy))


def test_an_adapter_of_another_base_is_refused_by_both_names(tiny_base: Path) -> None:
    base = open_base(str(tiny_base))
    other = BaseIdentity(id="org/other", revision="0123456789abcdef", digest="b" * 64)
    with pytest.raises(BaseMismatch) as error:
        base.require(Manifest(files=(), base=other, method="lora"), "support@1")
    for part in ("support@1", describe(other), describe(base.identity)):
        assert part in str(error.value)


def test_the_same_base_under_another_name_is_accepted(tiny_base: Path) -> None:
    base = open_base(str(tiny_base))
    moved = base.identity.model_copy(update={"id": "elsewhere", "revision": "x"})
    base.require(Manifest(files=(), base=moved, method="lora"), "support@1")


def test_the_tokenizers_digest_does_not_depend_on_where_it_lies(
    tiny_base: Path, tmp_path: Path
) -> None:
    base = open_base(str(tiny_base))
    base.tokenizer.save_pretrained(tmp_path)
    again = LocalBase(tmp_path, base.identity)
    assert again.tokenizer_digest == base.tokenizer_digest


def test_a_base_without_tokenizer_is_a_sentence(copy: Path) -> None:
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(BaseNotFound, match="tokenizer"):
        _ = open_base(str(copy)).tokenizer


def test_how_a_tokenizer_was_called_does_not_change_its_digest(tiny_base: Path) -> None:
    base = open_base(str(tiny_base))
    before = base.tokenizer_digest
    base.tokenizer(["one", "one and another"], padding=True, truncation=True, max_length=2)
    assert base.tokenizer_digest == before == open_base(str(tiny_base)).tokenizer_digest
    base.tokenizer.add_tokens(["anothertoken"])
    assert base.tokenizer_digest != before
