"""JSON for readers that know no NaN: what is written, what is read, and that all goes this way."""

import ast
import json
import math

import pytest

from emanet_jax import strict_json
from tests.conftest import ROOT


def test_numbers_that_are_not_finite_are_null_at_any_depth():
    value = {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, 2)}], "d": "NaN", "e": True}
    text = strict_json.dumps(value)
    read = json.loads(text, parse_constant=pytest.fail)
    assert read == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": "NaN", "e": True}
    assert strict_json.dumps({"a": [1]}, indent=1) == '{\n "a": [\n  1\n ]\n}'


def test_null_is_read_as_nan():
    read = strict_json.numbers({"a": None, "b": 2})
    assert math.isnan(read["a"]) and read["b"] == 2.0 and isinstance(read["b"], float)


def writes_json(source):
    """Whether a module makes JSON by itself."""
    called = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return any(ast.unparse(x) in ("json.dump", "json.dumps") for x in called)


@pytest.mark.parametrize("folder", ["emanet_jax", "launch", "benchmarks", "configs"])
def test_one_function_makes_all_json(folder):
    assert writes_json("import json\nf(json.dumps(1))")
    found = [x for x in (ROOT / folder).rglob("*.py") if writes_json(x.read_text())]
    assert found == ([ROOT / "emanet_jax" / "strict_json.py"] if folder == "emanet_jax" else [])
