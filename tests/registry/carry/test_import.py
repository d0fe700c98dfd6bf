"""Adapters of other tools: what an import takes, what it records, what it leaves behind."""

import json
import shutil

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from adaptery.base_model import base_digest
from adaptery.errors import (
    BaseMismatch,
    BaseNotFound,
    CorruptFile,
    InvalidAdapter,
    InvalidName,
    ReferenceNotFound,
)
from adaptery.registry.carry.imports import import_adapter
from adaptery.registry.gate.package import CONFIG, TEMPLATE, WEIGHTS
from adaptery.types import sha256_of
from tests.adapters import make_adapter
from tests.registry.gate.corpus import reconfigure, small_base, valid_adapter

REPO = "someone/Their.Adapter"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_base(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture
def source(tmp_path, base):
    """A plain PEFT adapter, as a tool leaves it."""
    return valid_adapter(tmp_path / "their-run", base)


@pytest.fixture
def take(local, source):
    """Imports the source as `support`."""
    return lambda where=source, **options: import_adapter(local, str(where), "support", **options)


def test_files_are_taken_byte_for_byte(take, local, source):
    (source / TEMPLATE).write_bytes("{{ messages }}\r\n é".encode())
    version = take().version
    kept = local.materialize(version)
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == {
        p.name: p.read_bytes() for p in source.iterdir()
    }
    assert version.manifest.template_digest == sha256_of((source / TEMPLATE).read_bytes())


def test_the_manifest_says_where_it_comes_from_and_how_it_was_made(take, source, base):
    reconfigure(source, peft_version="0.19.1", lora_dropout=0.0, revision=None)
    manifest = take().version.manifest
    assert manifest.config == {
        "imported": {"from": "their-run"},
        "lora": {
            "r": 4,
            "alpha": 8,
            "dropout": 0.0,
            "targets": ["q_proj", "v_proj"],
            "bias": "none",
        },
    }
    assert manifest.base.id == str(base)
    assert manifest.base.digest == base_digest(base)
    assert manifest.packages == {"peft": "0.19.1"}
    assert manifest.method == "lora"


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"use_rslora": True}, "rslora"),
        ({"use_dora": True}, "dora"),
        ({"use_dora": True, "use_rslora": True}, "dora"),
        ({"peft_type": "LOHA"}, "loha"),
    ],
)
def test_the_method_is_what_the_flags_say(take, source, config, method):
    reconfigure(source, **config)
    assert take().version.manifest.method == method


def test_importing_the_same_directory_twice_is_one_version(take, local):
    first, second = take().version, take().version
    assert (first.number, first.digest) == (second.number, second.digest)
    assert len(local.history("support")) == 1


def test_the_source_is_only_read(take, source):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in source.iterdir()}
    take()
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in source.iterdir()} == before


def test_what_is_no_part_of_an_adapter_is_left_behind_and_named(take, source):
    for name in ("README.md", "training_args.bin", "tokenizer.json"):
        (source / name).write_text("{}")
    (source / "checkpoint-9").mkdir()
    expected = ("README.md", "checkpoint-9", "tokenizer.json", "training_args.bin")
    assert take().left_behind == expected


@pytest.mark.parametrize(
    "written",
    [
        "{{ a }}",
        [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ a }}"}],
    ],
    ids=["one", "several"],
)
def test_a_template_is_taken_from_the_tokenizers_configuration(take, local, source, written):
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": written}))
    version = take().version
    assert (local.materialize(version) / TEMPLATE).read_text() == "{{ a }}"
    assert version.manifest.template_digest == sha256_of(b"{{ a }}")


def test_a_template_of_its_own_comes_before_the_tokenizers(take, local, source):
    (source / TEMPLATE).write_text("own")
    (source / "tokenizer_config.json").write_text('{"chat_template": "other"}')
    found = take()
    assert (local.materialize(found.version) / TEMPLATE).read_text() == "own"
    assert found.left_behind == ("tokenizer_config.json",)


def test_the_base_that_is_named_decides(take, source, base, tmp_path):
    reconfigure(source, base_model_name_or_path="gone/away")
    with pytest.raises(BaseNotFound, match=r"gone/away.* Name it with --base"):
        take()
    copy = shutil.copytree(base, tmp_path / "copy")
    manifest = take(base=str(copy)).version.manifest
    assert (manifest.base.id, manifest.base.digest) == (str(copy), base_digest(base))
    other = small_base(tmp_path / "other")
    (other / "config.json").write_text('{"model_type": "other"}')
    assert take(base=str(other)).version.number == 2


def test_an_adapter_of_another_base_is_refused(take, tmp_path):
    wide = make_adapter(tmp_path / "wide", width=32).directory
    with pytest.raises(BaseMismatch, match=r"lora_A of shape \(4, 32\)"):
        take(wide, base=str(small_base(tmp_path / "small")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseNotFound, match="holds no"):
        take(wide, base=str(tmp_path / "empty"))


def test_a_reason_is_kept_and_the_origin_is_one(take, local, source):
    take(reason="the vendor's")
    reconfigure(source, lora_alpha=16)
    take()
    assert [e.reason for e in local.history("support")] == [
        "the vendor's",
        "imported from their-run",
    ]


def test_what_is_no_adapter_says_what_is_there(take, source, tmp_path):
    inner = tmp_path / "run" / "checkpoint-100"
    shutil.copytree(source, inner)
    with pytest.raises(InvalidAdapter, match=r"no adapter_config\.json\. Perhaps it is in checkp"):
        take(inner.parent)
    with pytest.raises(InvalidAdapter, match=r"There is no directory '.*nowhere'"):
        take(tmp_path / "nowhere")
    with pytest.raises(InvalidAdapter, match="There is no directory"):
        take(source / WEIGHTS)


def as_pickle(directory):
    """The adapter as older tools save it."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(directory / WEIGHTS)
    torch.save(tensors, directory / "adapter_model.bin")
    (directory / WEIGHTS).unlink()
    return tensors


def test_a_pickle_is_converted_only_on_request(take, local, source):
    from safetensors.torch import load_file

    tensors = as_pickle(source)
    with pytest.raises(InvalidAdapter, match=r"adapter_model\.bin, a pickle.*--convert-pickle"):
        take()
    version = take(convert_pickle=True).version
    kept = load_file(local.materialize(version) / WEIGHTS)
    assert kept.keys() == tensors.keys()
    assert all(kept[name].equal(tensors[name]) for name in tensors)
    digest = sha256_of((source / "adapter_model.bin").read_bytes())
    converted = version.manifest.config["imported"]["converted_from"]
    assert converted == f"adapter_model.bin sha256:{digest}"
    assert take(convert_pickle=True).version.number == version.number


def test_a_pickle_beside_safetensors_is_left_behind(take, source):
    (source / "adapter_model.bin").write_bytes(b"not even a pickle")
    assert take().left_behind == ("adapter_model.bin",)


# The Hub


@pytest.fixture
def upload(peer, source):
    """Commits the source, as it is, to the repository; gives the commit."""
    api = HfApi(endpoint=peer.url)
    api.create_repo(REPO)

    def commit():
        files = [CommitOperationAdd(p.name, p.read_bytes()) for p in source.iterdir()]
        return api.create_commit(REPO, files, commit_message="more").oid

    return commit


def test_a_repository_on_the_hub_is_pinned_to_its_commit(take, source, upload, peer, base):
    (source / "README.md").write_text("# theirs")
    first = upload()
    reconfigure(source, lora_alpha=16)
    second = upload()
    found = take(f"hf://{REPO}", base=str(base))
    imported = found.version.manifest.config["imported"]
    assert imported == {"from": f"hf://{REPO}", "commit": second}
    assert found.left_behind == (".gitattributes", "README.md")
    older = take(f"hf://{REPO}@{first}", base=str(base)).version
    assert older.manifest.config["imported"]["commit"] == first
    assert older.manifest.config["lora"]["alpha"] == 8
    assert not [request for request in peer.requests if "README" in request]


def test_a_revision_that_is_not_there_is_named(take, upload):
    upload()
    with pytest.raises(CorruptFile, match="has no commit nowhere"):
        take(f"hf://{REPO}@nowhere")
    with pytest.raises(ReferenceNotFound, match="no repository someone/else"):
        take("hf://someone/else")


@pytest.mark.parametrize(
    "text",
    ["hf://a", "hf://a/b/c", "hf:///b", "hf://../b", "hf://a/b@", "hf://a/b@../x", "hf://a/b\n"],
)
def test_a_broken_reference_to_the_hub_is_refused(take, text):
    with pytest.raises(InvalidName, match="hf://ORG/REPO"):
        take(text)


def test_a_file_that_did_not_arrive_whole_is_refused(take, upload, peer, local):
    commit = upload()
    file = peer.store.repo(REPO).at(commit).files[WEIGHTS]
    path = peer.store.blob(file.sha256)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=f"{WEIGHTS} of {REPO} did not arrive"):
        take(f"hf://{REPO}")
    assert not local.versions()


def test_a_base_by_path_from_the_hub_is_not_opened(take, upload):
    upload()
    with pytest.raises(BaseNotFound, match="a path of the machine that made it"):
        take(f"hf://{REPO}")


def test_a_huge_configuration_on_the_hub_is_not_downloaded(take, source, upload, peer):
    (source / CONFIG).write_text(" " * (1 << 21))
    upload()
    with pytest.raises(InvalidAdapter, match="is larger than 1048576 bytes"):
        take(f"hf://{REPO}")
    assert not [request for request in peer.requests if f"resolve/main/{CONFIG}" in request]
