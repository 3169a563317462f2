"""JSON that every reader takes: NaN and infinities, which it has no words for, are null."""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """The value as JSON text; all JSON that the package writes is made here."""
    return json.dumps(nulls(value), indent=indent, allow_nan=False)


def nulls(value: Any) -> Any:
    """The value, of dicts and lists, with None for every number in it that is not finite."""
    if isinstance(value, Mapping):
        return {key: nulls(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [nulls(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values of a JSON object of numbers, NaN for null."""
    return {name: math.nan if value is None else float(value) for name, value in values.items()}
