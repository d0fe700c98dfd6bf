"""Patterns of modules: those that people write are let through, those that hang are not."""

import re
import time
from math import comb

import pytest

from adaptery.errors import InvalidAdapter
from adaptery.registry.gate.config import LoraDeclaration
from adaptery.registry.gate.lora import alphas, ranks
from adaptery.registry.gate.patterns import NAME_LENGTH, check_pattern, ways

PROJECTIONS = "(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@pytest.mark.parametrize(
    "pattern",
    [
        "all-linear",
        r".*\.(q|v)_proj",
        r"model\.layers\.\d+\.self_attn\.(q_proj|v_proj)",
        r"^model\.layers\.(?:[0-9]|1[0-5])\.mlp\.\w+_proj$",
        rf"^(?!.*(?:visual|vision_tower)).*{PROJECTIONS}.*",
        rf".*?(?:language|text).*?(?:self_attn|mlp).*?{PROJECTIONS}.*?",
        rf"(?:.*?(?:text).*?(?:attn|mlp).*?{PROJECTIONS}.*?)|(?:\bmodel\.layers\.[\d]{{1,}}\..*)",
        r"transformer\.h\.\d{1,2}\.(attn\.c_attn|mlp\.c_fc)",
    ],
)
def test_what_people_write_is_let_through(pattern):
    check_pattern(pattern, "target_modules")


def test_the_slowest_that_is_let_through_is_quick_all_the_same():
    pattern = ".*.*.*.*[xy]"
    check_pattern(pattern, "it")
    with pytest.raises(InvalidAdapter, match=f"in {comb(NAME_LENGTH + 5, 5)} ways"):
        check_pattern(".*" + pattern, "it")
    compiled, started = re.compile(pattern), time.process_time()
    assert not compiled.fullmatch("a" * NAME_LENGTH)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("abc", 1),
        ("a|a", 2),
        ("q_proj|k_proj|v_proj", 1),
        ("proj|proj_a", 2),
        ("a?b?c?", 8),
        (".*", NAME_LENGTH + 1),
        (".*x.*", (NAME_LENGTH + 2) * (NAME_LENGTH + 1) // 2),
        ("[ab]{3}", 1),
        ("[ab]{2,4}", 3),
        ("(a?){3}", 8),
        ("(?!.*x)a?", 2 * (NAME_LENGTH + 1)),
    ],
)
def test_the_ways_of_matching_are_counted(pattern, count):
    assert ways(pattern, NAME_LENGTH, "it") == count


def declaration(**fields):
    return LoraDeclaration(r=4, lora_alpha=8, **fields)


def test_the_first_pattern_that_fits_decides_as_in_peft():
    from peft.utils.other import get_pattern_key

    modules = [f"model.layers.{i}.{m}_proj" for i in range(12) for m in ("q", "k", "v", "o")]
    patterns = {
        "layers.1.q_proj": 1,
        r"layers\.\d\.q_proj": 2,
        "q_proj": 3,
        r".*\.1[01]\.[kv]_proj": 5,
        "v_proj": 6,
        "proj": 7,
        "model.layers.3.k_proj": 8,
        r"(layers\.2\..*)": 9,
    }
    found = ranks(declaration(rank_pattern=patterns), modules)
    keys = {module: get_pattern_key(list(patterns), module) for module in modules}
    assert found == {module: patterns.get(key, 4) for module, key in keys.items()}
    assert len(set(found.values())) > 5
    assert alphas(declaration(alpha_pattern=patterns), modules) == {
        module: patterns.get(key, 8) for module, key in keys.items()
    }


def test_a_pattern_for_each_of_many_modules_is_matched_at_once():
    modules = [f"model.layers.{i}.self_attn.{m}_proj" for i in range(500) for m in "qkvo"]
    patterns = {module: 1 + i % 7 for i, module in enumerate(modules)}
    started = time.process_time()
    assert ranks(declaration(rank_pattern=patterns), modules) == patterns
    assert time.process_time() - started < 1
