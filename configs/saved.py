"""A run's own config again: --config=runs/quickstart/config.json stands for this file.

python -m emanet_jax.main --config=runs/quickstart/config.json --workdir=runs/again
"""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath

from configs import common
from emanet_jax import settings
from emanet_jax.errors import UserError


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config that the file `arg`, a run's config.json, holds.

    Raises:
        UserError: it is no such file, or its keys or types are not `common.default_config`'s.
    """
    return read(epath.Path(arg or ""), f"--config={arg or ''}")


def read(path: epath.Path, where: str) -> ml_collections.ConfigDict:
    """The locked config in a config.json; messages call it `where`.

    Raises:
        UserError: as `get_config`.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where} is no config.json of a run: {error}.") from error
    settings.check_types(values, where)
    config = common.default_config()
    _fill(config, values)
    return config.lock()


def _fill(config: ml_collections.ConfigDict, values: Mapping[str, Any], group: str = "") -> None:
    """Writes the values of a JSON object into the defaults, key by key."""
    for key, value in values.items():
        if group + key in settings.FREE:
            config[key] = ml_collections.ConfigDict({k: _tuples(v) for k, v in value.items()})
        elif isinstance(value, Mapping):
            _fill(config[key], value, f"{group}{key}.")
        else:
            config[key] = _tuples(value)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(_tuples(x) for x in value) if isinstance(value, list) else value
