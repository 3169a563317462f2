"""What every value of a config may be: its type is its default's, its range is in one table."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from configs import common
from emanet_jax.errors import UserError

LARGEST_SIDE = 16384  # pixels of an image, so that a slip does not fill the memory

# Dictionaries whose keys each config chooses itself.
FREE = ("task_weights", "model.overrides", "balancing_settings")


class Rule(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _between(low: int, high: int) -> Rule:
    return Rule(f"between {low} and {high}", lambda x: low <= x <= high)


def _positive(high: int) -> Rule:
    return Rule(f"positive and at most {high}", lambda x: 0 < x <= high)


def _size(value: tuple[int, ...]) -> bool:
    return len(value) == 2 and all(32 <= side <= LARGEST_SIDE and side % 32 == 0 for side in value)


_COUNT, _SEED = _positive(10**9), _between(0, 2**31 - 1)
_FINITE = Rule("positive and finite", lambda x: 0 < x < math.inf)
_WEIGHT = Rule("finite and at least 0", lambda x: 0 <= x < math.inf)

# What must hold beyond the type, for values that nothing else checks.
RULES: dict[str, Rule] = {
    "seed": _SEED,
    "data.seed": _SEED,
    "data.image_size": Rule(f"(height, width), multiples of 32 from 32 to {LARGEST_SIDE}", _size),
    "data.threads": _between(0, 1024),
    "data.prefetch": _between(0, 10000),
    "epochs": _positive(10**6),
    "eval_every_epochs": _positive(10**6),
    "batch_size": _between(1, 65536),
    "eval_batch_size": _between(1, 65536),
    "log_every_steps": _COUNT,
    "accumulate": _COUNT,
    "max_bad_steps": _COUNT,
    "panel_images": _COUNT,
    "panel_every_steps": _between(0, 10**9),
    "checkpoint.every_steps": _COUNT,
    "checkpoint.keep_latest": _COUNT,
    "checkpoint.keep_best": _COUNT,
    "optimizer.learning_rate": _FINITE,
    "optimizer.l2": _WEIGHT,
    "optimizer.clip_norm": Rule("positive and finite, or None", lambda x: x is None or x > 0),
}

_ONE_OF = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def check(config: Mapping[str, Any]) -> None:
    """Looks at every value of a config that is complete.

    Raises:
        UserError: a key is missing or surplus, or a value is not of its type or out of its range.
    """
    check_types(config, "the config")
    for key, rule in RULES.items():
        value = functools.reduce(lambda group, name: group[name], key.split("."), config)
        _demand(key, value, rule)
    for name, weight in config["task_weights"].items():
        _demand(f"task_weights.{name}", weight, Rule("a number", _is_number))
        _demand(f"task_weights.{name}", weight, _WEIGHT)


def check_types(values: Mapping[str, Any], where: str) -> None:
    """Compares keys and types with those of `common.default_config`.

    Args:
        values: of a whole config.
        where: they come from, for messages.

    Raises:
        UserError: a key is missing or surplus, or a value is of another type.
    """
    defaults = common.default_config()
    _compare(values, defaults, "", where)


def _compare(values: Any, defaults: Mapping[str, Any], group: str, where: str) -> None:
    if not hasattr(values, "items"):
        name = f"config.{group.rstrip('.')}" if group else where
        raise UserError(f"{name} of {where} is {values!r}; it must be a group of named values.")
    if group.rstrip(".") in FREE:
        return
    missing, surplus = sorted(set(defaults) - set(values)), sorted(set(values) - set(defaults))
    if missing or surplus:
        names = [", ".join(group + name for name in x) or "no key" for x in (missing, surplus)]
        raise UserError(
            f"{where} is of another version: it lacks {names[0]} and has {names[1]} too many; "
            "configs/common.py has all keys with their defaults."
        )
    for name, default in defaults.items():
        if hasattr(default, "items"):
            _compare(values[name], default, f"{group}{name}.", where)
        else:
            kind = type(default) if default is not None else float
            if default is not None or values[name] is not None:
                _demand(group + name, values[name], _of_type(kind, default))


def _of_type(kind: type, default: Any) -> Rule:
    """Of the type; whole numbers will do for floats, and lists, as JSON has them, for tuples."""
    if kind is tuple:
        inner = _of_type(type(default[0]), default[0])
        holds = lambda x: isinstance(x, (tuple, list)) and all(map(inner.holds, x))  # noqa: E731
        return Rule(f"a tuple like {default}", holds)
    if kind is float:
        return Rule(_ONE_OF[kind], _is_number)
    return Rule(_ONE_OF[kind], lambda x: type(x) is kind)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _demand(key: str, value: Any, rule: Rule) -> None:
    if not rule.holds(value):
        raise UserError(f"config.{key} is {value!r}; it must be {rule.words}.")
