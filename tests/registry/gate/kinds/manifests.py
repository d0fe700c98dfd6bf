"""Manifests from elsewhere that name files, digests and bases that no manifest may name."""

import json
from pathlib import Path

from tests.adapters import BASE
from tests.registry.gate.corpus import Kind

FILE = {"path": "adapter_config.json", "size": 2, "sha256": "0" * 64}
PLAIN = {"files": [FILE], "base": BASE.model_dump(), "method": "lora"}


def manifest(name: str, says: str, data: object) -> Kind:
    """A manifest of this JSON value, or of exactly these bytes."""
    text = data if isinstance(data, bytes) else json.dumps(data).encode()

    def build(at: Path, canary: Path) -> None:
        (at / "manifest.json").write_bytes(text)

    return Kind(f"manifest {name}", build, says, None)


def file(name: str, says: str, **changes: object) -> Kind:
    return manifest(f"with {name}", says, PLAIN | {"files": [FILE | changes]})


def base(name: str, says: str, **changes: object) -> Kind:
    return manifest(f"of a base with {name}", says, PLAIN | {"base": PLAIN["base"] | changes})


MANIFESTS = [
    *(
        file(f"the path {path!r}", r"files\.0\.path", path=path)
        for path in (
            *("../evil", "/etc/passwd", "a/b", "a\\b", "..", ".hidden", "", "a\0", "a\n"),
            *("C:evil", "con ", "аdapter", "x" * 200, "~root", "-rf", "$HOME", "%2e%2e%2f"),
        )
    ),
    file("a negative size", r"files\.0\.size", size=-1),
    file("a digest that is a path", r"files\.0\.sha256", sha256="../../../../etc/passwd"),
    file("a digest in upper case", r"files\.0\.sha256", sha256="A" * 64),
    file("a short digest", r"files\.0\.sha256", sha256="0" * 63),
    file("a digest and a line break", r"files\.0\.sha256", sha256="0" * 64 + "\n"),
    file("a field of its own", r"files\.0\.mode: Extra inputs", mode="0777"),
    base("a digest that is a path", r"base\.digest", digest="../x"),
    base("a NUL in its id", r"base\.id has .* printable", id="a\0b"),
    base("a line break in its id", r"base\.id", id="a\nbase_model: evil"),
    base("an escape in its id", r"base\.id", id="\x1b]0;title\x07"),
    base("a revision with a line break", r"base\.revision", revision="main\n"),
    base("a long id", "at most 1024", id="x" * 5000),
    manifest("with an escape for a method", "method", PLAIN | {"method": "\x1b[2J"}),
    manifest("with an escape for a package", "packages", PLAIN | {"packages": {"\x1b[2J": "1"}}),
    manifest("with an escape for a metric", "metrics", PLAIN | {"metrics": {"\x1b[2J": 1.0}}),
    manifest("with code", "auto_map: Extra inputs", PLAIN | {"auto_map": "evil"}),
    manifest("of a later schema", "schema_version", PLAIN | {"schema_version": 2}),
    manifest("that is a list", "not a manifest", [PLAIN]),
    manifest("without files", "files: Field required", {"base": PLAIN["base"], "method": "lora"}),
    manifest("with a key twice", "'method' comes twice", b'{"method": "a", "method": "b"}'),
    manifest("with NaN", "not a finite number", PLAIN | {"metrics": {"loss": float("nan")}}),
    manifest(
        "with infinity",
        "metrics",
        json.dumps(PLAIN | {"metrics": {"loss": 7e7}}).replace("70000000.0", "1e999").encode(),
    ),
    manifest(
        "that nests",
        "nests deeper",
        json.dumps(PLAIN).encode()[:-1] + b', "config": {"a": ' + b"[" * 400 + b"]" * 400 + b"}}",
    ),
    manifest("with half a surrogate", "surrogates", PLAIN | {"config": {"a": "\ud800"}}),
    manifest("with a byte order mark", "not valid JSON", b"\xef\xbb\xbf{}"),
    manifest("that is not UTF-8", "not valid JSON", b'{"method": "\xff"}'),
    manifest("of five megabytes", "at most 4194304", b" " * (5 << 20)),
]
