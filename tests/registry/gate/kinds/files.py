"""Pickles under any extension, code, links, and files that are not what their names say."""

import io
import os
import pickle
import socket
import stat
import zipfile
from pathlib import Path

from adaptery.registry.gate.package import CONFIG, TEMPLATE, WEIGHTS
from tests.registry.gate.corpus import Bomb, Kind, kind, write_raw

PICKLE = "safetensors file, but a pickle by its first bytes, which is never opened"


def bomb(canary: Path, protocol: int = 4) -> bytes:
    return pickle.dumps({"a": Bomb(canary)}, protocol=protocol)


def torch_file(canary: Path) -> bytes:
    """What `torch.save` writes: a zip that holds a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", bomb(canary, 2))
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


def only_a_pickle(name: str) -> Kind:
    """Tensors in a pickle instead of safetensors."""

    def build(at: Path, canary: Path) -> None:
        (at / WEIGHTS).unlink()
        (at / name).write_bytes(torch_file(canary))

    return Kind(f"only {name}", build, f"has no {WEIGHTS}", f"{name}, a pickle, .*--convert-pickle")


def beside(name: str, says: str | None = None, imports: str | None = None) -> Kind:
    """A file that no adapter has, beside a valid one; an import leaves it behind."""

    def build(at: Path, canary: Path) -> None:
        (at / name).write_bytes(bomb(canary))

    return Kind(f"beside {name!r}", build, says or f"also holds {name}", imports)


def replaced(name: str, what: str, says: str, imports: str = "not a plain file") -> Kind:
    """Something else in the place of a file."""

    def build(at: Path, canary: Path) -> None:
        outside = at.parent / f"outside-{name}"
        if (at / name).exists():
            (at / name).rename(outside)
        MAKERS[what](at / name, outside)

    return Kind(f"{what} for {name}", build, says, imports)


def make_socket(path: Path, outside: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    os.chdir(before)


def make_device(path: Path, outside: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:  # not everybody may
        path.symlink_to("/dev/zero")


def link_to_secret(path: Path, outside: Path) -> None:
    outside.write_text("a secret of this machine")
    path.symlink_to(outside)


MAKERS = {
    "link": lambda path, outside: path.symlink_to(outside),
    "link to a secret": link_to_secret,
    "link to itself": lambda path, outside: path.symlink_to(path),
    "link to nothing": lambda path, outside: path.symlink_to(path.parent / "nothing"),
    "pipe": lambda path, outside: os.mkfifo(path),
    "socket": make_socket,
    "device": make_device,
    "directory": lambda path, outside: path.mkdir(),
}


def overwritten(title: str, name: str, says: str, content) -> Kind:
    """A file with other bytes, which may depend on the canary."""

    def build(at: Path, canary: Path) -> None:
        (at / name).write_bytes(content(canary) if callable(content) else content)

    return Kind(title, build, says, says)


@kind("ends? at byte")
def build_pickle_after_the_tensors(at: Path, canary: Path) -> None:
    with (at / WEIGHTS).open("ab") as file:
        file.write(bomb(canary))


@kind("'__reduce__' .*malformed")
def build_pickle_in_the_header(at: Path, canary: Path) -> None:
    write_raw(at, {"__reduce__": bomb(canary, 0).decode("latin-1")})


@kind("has 1099511627776 bytes; an adapter has at most")
def build_sparse_terabyte(at: Path, canary: Path) -> None:
    os.truncate(at / WEIGHTS, 1 << 40)


@kind("tensors end at byte")
def build_sparse_tail(at: Path, canary: Path) -> None:
    os.truncate(at / WEIGHTS, 1 << 35)


@kind("tensors end at byte")
def build_truncated_tensors(at: Path, canary: Path) -> None:
    os.truncate(at / WEIGHTS, (at / WEIGHTS).stat().st_size - 1)


@kind("no adapter_config.json", "is no PEFT adapter: it has no adapter_config.json")
def build_no_configuration(at: Path, canary: Path) -> None:
    (at / CONFIG).unlink()


@kind(f"has no {WEIGHTS}", rf"has no {WEIGHTS}\. It holds")
def build_weights_in_upper_case(at: Path, canary: Path) -> None:
    (at / WEIGHTS).rename(at / WEIGHTS.upper())


@kind(f"has no {WEIGHTS}", f"has no {WEIGHTS}")
def build_whole_model_instead(at: Path, canary: Path) -> None:
    (at / WEIGHTS).rename(at / "model.safetensors")


@kind(None, "tokenizer_config.json is not valid JSON")
def build_tokenizer_that_is_a_pickle(at: Path, canary: Path) -> None:
    (at / "tokenizer_config.json").write_bytes(bomb(canary))


@kind(None, "tokenizer_config.json.* is not a plain file")
def build_tokenizer_that_is_a_link(at: Path, canary: Path) -> None:
    link_to_secret(at / "tokenizer_config.json", at.parent / "outside")


@kind(None, f"{TEMPLATE} is larger than 1048576 bytes")
def build_huge_template_of_a_tokenizer(at: Path, canary: Path) -> None:
    (at / "tokenizer_config.json").write_text('{"chat_template": "%s"}' % ("x" * (1 << 21)))


FILES = [
    *(only_a_pickle(f"adapter_model.{ending}") for ending in ("bin", "pt", "pth", "ckpt", "pkl")),
    *map(beside, ("adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt")),
    *map(beside, ("modeling_evil.py", "__init__.py", "adapter_model.safetensors.index.json")),
    beside("Adapter_Config.json"),
    beside("adapter_cоnfig.json"),  # with a Cyrillic o
    beside("adapter_config.json\u200b", r"also holds 'adapter_config.json\\u200b'"),
    beside("new\nline", r"also holds 'new\\nline'"),
    beside("\x1b[2Jclear", r"also holds '\\x1b\[2Jclear'"),
    beside(os.fsdecode(b"\xff\xfe.json"), r"also holds '\\udcff\\udcfe.json'"),
    beside("x" * 255),
    overwritten("weights are a pickle", WEIGHTS, PICKLE, bomb),
    overwritten("weights are a torch file", WEIGHTS, PICKLE, torch_file),
    overwritten("weights are an old pickle", WEIGHTS, "not a s", lambda c: bomb(c, 0)),
    overwritten("configuration is a pickle", CONFIG, "not valid JSON", bomb),
    overwritten("template is a pickle", TEMPLATE, "not UTF-8", bomb),
    overwritten("template is not UTF-8", TEMPLATE, "not UTF-8", b"\xff\xfe{}"),
    overwritten("template is huge", TEMPLATE, "larger than 1048576 bytes", b"x" * (1 << 21)),
    overwritten("weights are empty", WEIGHTS, "claims 0 bytes, of a file of 0", b""),
    overwritten("weights are seven bytes", WEIGHTS, "of a file of 7", bytes(7)),
    overwritten("weights are a script", WEIGHTS, "not a safetensors file", b"#!/bin/sh\nexit 1\n"),
    *(
        replaced(name, what, "not a plain file")
        for what in ("link", "pipe", "socket", "device", "directory")
        for name in (CONFIG, WEIGHTS)
    ),
    *(
        replaced(TEMPLATE, what, "not a plain file")
        for what in ("link to a secret", "link to itself", "link to nothing", "pipe", "directory")
    ),
    build_pickle_after_the_tensors,
    build_pickle_in_the_header,
    build_sparse_terabyte,
    build_sparse_tail,
    build_truncated_tensors,
    build_no_configuration,
    build_weights_in_upper_case,
    build_whole_model_instead,
    build_tokenizer_that_is_a_pickle,
    build_tokenizer_that_is_a_link,
    build_huge_template_of_a_tokenizer,
]
