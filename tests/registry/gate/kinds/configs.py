"""Configurations that carry code, hang their reader, or ask for the impossible."""

import json
from pathlib import Path

import numpy as np

from adaptery.registry.gate.package import CONFIG
from tests.registry.gate.corpus import WIDTH, Kind, Q, V, configured, kind, reconfigure, reweigh

NO_CODE = "never bring code of their own"
NO_MODULE = "which no module is called"
SLOW = r"can match .* ways; at most \d+ are tried"


def written(title: str, says: str, text: str | bytes) -> Kind:
    """A configuration of exactly this text."""
    data = text.encode() if isinstance(text, str) else text
    return Kind(title, lambda at, _: (at / CONFIG).write_bytes(data), says, says)


def amended(title: str, says: str, old: str, new: str) -> Kind:
    """A configuration with one text replaced by another that no JSON library would write."""

    def build(at: Path, canary: Path) -> None:
        text = (at / CONFIG).read_text()
        assert old in text
        (at / CONFIG).write_text(text.replace(old, new))

    return Kind(title, build, says, says)


def pattern(title: str, says: str, text: str) -> Kind:
    return configured(f"rank_pattern {title}", says, rank_pattern={text: 4})


@kind("q_proj' has the rank 64, more than its layer of 16 inputs and 16 outputs")
def build_real_rank_bomb(at: Path, canary: Path) -> None:
    changes = {}
    for module in (Q, V):
        changes[f"{module}.lora_A.weight"] = np.ones((64, WIDTH), np.float32)
        changes[f"{module}.lora_B.weight"] = np.ones((WIDTH, 64), np.float32)
    reweigh(at, changes)
    reconfigure(at, r=64)


@kind("is larger than 1048576 bytes")
def build_million_patterns(at: Path, canary: Path) -> None:
    reconfigure(at, rank_pattern={f"module_{i}": 4 for i in range(200_000)})


@kind(SLOW)
def build_many_patterns(at: Path, canary: Path) -> None:
    reconfigure(at, rank_pattern={rf"x{i}.*.*.*[ab]": 4 for i in range(10_000)})


@kind(None, "names no base: name it with --base")
def build_no_base(at: Path, canary: Path) -> None:
    reconfigure(at, base_model_name_or_path=None)


@kind(None, "a path of the machine that made it.*--base")
def build_base_by_traversal(at: Path, canary: Path) -> None:
    reconfigure(at, base_model_name_or_path="../../../../../../etc")


@kind(None, "holds no .*safetensors file.*--base")
def build_base_that_is_none(at: Path, canary: Path) -> None:
    reconfigure(at, base_model_name_or_path="/etc")


@kind(None, "could not be had from the Hub.*--base")
def build_base_that_is_nowhere(at: Path, canary: Path) -> None:
    reconfigure(at, base_model_name_or_path="x" * 500)


HUGE = 2**31 - 1
CONFIGS = [
    configured("auto_map", "has an auto_map", auto_map={"AutoModel": "evil.Model"}),
    configured("auto_map inside", "has an auto_map", loftq_config={"a": [{"auto_map": "x"}]}),
    configured("trust_remote_code", NO_CODE, trust_remote_code=True),
    configured("custom_code", NO_CODE, custom_code="import os"),
    configured("custom_pipelines", NO_CODE, custom_pipelines={"a": {"impl": "evil.py"}}),
    configured("parent_library", NO_CODE, auto_mapping={"parent_library": "os"}),
    configured("parent_library of a list", NO_CODE, auto_mapping={"parent_library": ["os"]}),
    configured("megatron_core", NO_CODE, megatron_core="evil.core"),
    configured("megatron_config", NO_CODE, megatron_config={"a": 1}),
    configured("peft_type of its own", "'EVIL' is not known", peft_type="EVIL"),
    configured("peft_type of a list", "is not known", peft_type=["LORA"]),
    configured("no peft_type", "None is not known", peft_type=None),
    configured("target by traversal", NO_MODULE, target_modules=["../../etc/passwd"]),
    configured("target with NUL", NO_MODULE, target_modules=["q\0"]),
    configured("target that is a number", NO_MODULE, target_modules=[1]),
    configured("targets of a mapping", "not a list of modules", target_modules={"q": 1}),
    configured("saved module by traversal", NO_MODULE, modules_to_save=["a/../../b"]),
    configured("saved module with a pattern", NO_MODULE, modules_to_save=["(a+)+$"]),
    configured("classifier without its head", "no tensor of a head", task_type="SEQ_CLS"),
    configured("excluded module of a path", NO_MODULE, exclude_modules=["/etc"]),
    configured("layers_pattern of a path", NO_MODULE, layers_pattern=["../h"]),
    configured("base with NUL", "base_model_name_or_path", base_model_name_or_path="a\0b"),
    configured("base with a line break", "one line of pri", base_model_name_or_path="a\nb: c"),
    configured("base with an escape", "printable", base_model_name_or_path="\x1b]0;x\x07"),
    configured("base of a megabyte", "at most 512", base_model_name_or_path="x" * 1_000_000),
    configured("base that is a list", "printable text", base_model_name_or_path=["a"]),
    configured("revision with a line break", "revision", revision="main\nX-Evil: 1"),
    configured("peft_version with an escape", "peft_version", peft_version="\x1b[31m"),
    configured("rank of zero", "r: Input should be greater", r=0),
    configured("rank below zero", "r: Input should be greater", r=-4),
    configured("rank that is true", "r: Input should be a valid integer", r=True),
    configured("rank that is a text", "r: Input should be a valid integer", r="4"),
    configured("rank bomb", "rank 4 in lora_A .* declares 2147483647", r=HUGE),
    configured(
        "rank bomb that is overridden",
        "declares the rank 2147483647 for 'r', more than any",
        **{"r": HUGE, "rank_pattern": {"q_proj": 4, "v_proj": 4}},
    ),
    configured("rank bomb elsewhere", "2147483647 for 'x'", rank_pattern={"x": HUGE}),
    configured("rank bomb by pattern", "declares 2147483647", rank_pattern={"v_proj": HUGE}),
    configured("alpha that is a text", "lora_alpha", lora_alpha="8"),
    configured("bias of its own", "bias: Input should be", bias="evil"),
    configured("dora that is a text", "use_dora: Input", use_dora="no"),
    configured("rank_pattern of a list", "rank_pattern", rank_pattern=[["q_proj", 4]]),
    amended("alpha NaN", "not a finite number", '"lora_alpha": 8', '"lora_alpha": NaN'),
    amended("alpha infinite", "not a finite n", '"lora_alpha": 8', '"lora_alpha": -Infinity'),
    amended("alpha too large", "finite number", '"lora_alpha": 8', '"lora_alpha": 1e999'),
    amended("key twice", "'r' comes twice", '"r": 4', '"r": 4, "r": 4'),
    amended("huge number", "not valid JSON", '"r": 4', f'"r": {"9" * 5000}'),
    amended("half a surrogate", "surrogates", '"CAUSAL_LM"', '"\\ud800"'),
    amended("half a surrogate for a key", "surrogates", '"r": 4', '"r": 4, "\\udc00": 1'),
    pattern("of nested loops", "a group may be repeated by", "(a+)+$"),
    pattern("of nested loops with classes", "a group may be repeated", r"([\w.]*)*x"),
    pattern("of alternatives in a loop", "a group may be repeated", "(a|a)*b"),
    pattern("of many alternatives", SLOW, "(?:a|a?)" * 30 + "b"),
    pattern("of many options", SLOW, "a?" * 40 + "a" * 40),
    pattern("of many loops", SLOW, ".*" * 20 + "[xy]"),
    pattern("of many bounded loops", SLOW, "(?:.{0,60})" * 10 + "[xy]"),
    pattern("that refers back", "groupref", r"(.*)\1\1\1"),
    pattern("that branches on a group", "cannot be used", r"(a)?(?(1)b|c)"),
    pattern("with flags", "cannot be used", "(?i)Q_PROJ"),
    pattern("that is none", r"rank_pattern '\(' cannot be used", "("),
    pattern("that closes our group", "cannot be used", "x)|(.*"),
    pattern("of a megabyte", "at most 1000 are matched", "(x)" * 300_000),
    pattern("with a huge count", "cannot be used", "a{99999999999}"),
    pattern("of many groups", "cannot be used|ways", "(" * 450 + "a" + ")" * 450 + "+"),
    pattern("by traversal", "rank 4|no module|declare|holds a character|$^", "../../x\n"),
    configured("alpha_pattern of loops", "alpha_pattern", alpha_pattern={"(a+)+$": 8}),
    configured("target_modules of loops", "target_modules", target_modules="(.*)*x"),
    configured("exclude_modules of loops", "exclude_modules", exclude_modules="(a|aa)+$"),
    configured("layers_pattern of loops", "layers_pattern", layers_pattern="(x+x+)+y"),
    written("nesting", "not valid JSON|nests deeper", "[" * 500_000),
    written("nesting in an object", "not valid JSON|nests deeper", '{"a":' * 100_000),
    written("nesting that is closed", "nests deeper than 32", '{"a":' * 400 + "1" + "}" * 400),
    written("huge text", "larger than 1048576 bytes", json.dumps({"r": "x" * (1 << 20)})),
    written("byte order mark", "not valid JSON", b"\xef\xbb\xbf{}"),
    written("UTF-16", "not valid JSON", '{"r": 4}'.encode("utf-16")),
    written("not UTF-8", "not valid JSON", b'{"r": "\xff"}'),
    written("nothing", "not valid JSON", ""),
    written("null", "not a JSON object", "null"),
    written("list", "not a JSON object", "[]"),
    written("more after it", "not valid JSON", "{} {}"),
    written("NUL bytes", "not valid JSON", "\0" * 1000),
    written("comments", "not valid JSON", "{/* r */}"),
    build_real_rank_bomb,
    build_million_patterns,
    build_many_patterns,
    build_no_base,
    build_base_by_traversal,
    build_base_that_is_none,
    build_base_that_is_nowhere,
]
