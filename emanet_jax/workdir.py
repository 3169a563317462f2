"""The files of a run, and the check that a workdir is this run's own."""

import json

import ml_collections
from etils import epath

from emanet_jax.errors import UserError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
PARAMETERS = "parameters.txt"
PANEL = "panel.png"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"

# What a checkpoint's arrays depend on: a run can only go on with these unchanged.
_IDENTITY = (
    ("model", "name"),
    ("model", "backbone"),
    ("model", "variant"),
    ("model", "overrides"),
    ("data", "dataset"),
    ("data", "image_size"),
    ("tasks",),
    ("balancing",),
)


def write(path: epath.Path, content: str | bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def claim(workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
    """Makes the workdir and writes its config.json, unless it holds a run of another network.

    Raises:
        UserError: the workdir cannot be written, or its run differs in network, tasks or sizes.
    """
    path = workdir / CONFIG
    if path.exists():
        theirs, ours = json.loads(path.read_text()), json.loads(to_json(config))
        for keys in _IDENTITY:
            there, here = theirs, ours
            for key in keys:
                there, here = there[key], here[key]
            if there != here:
                raise UserError(
                    f"{workdir} holds a run with {'.'.join(keys)} = {there!r}, not {here!r}; "
                    "choose another --workdir, or the config of that run."
                )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write(path, to_json(config))
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}.") from error


def load_config(workdir: epath.Path) -> ml_collections.ConfigDict:
    """The locked config of the run in a workdir.

    Raises:
        UserError: there is no run.
    """
    path = workdir / CONFIG
    if not path.exists():
        raise UserError(f"{workdir} holds no run: there is no {CONFIG} in it.")
    return ml_collections.ConfigDict(json.loads(path.read_text())).lock()


def to_json(config: ml_collections.ConfigDict) -> str:
    """The whole config as JSON text."""
    return json.dumps(json.loads(config.to_json()), indent=2) + "\n"


def flat(config: ml_collections.ConfigDict) -> dict[str, str | int | float | bool]:
    """The config as {"model.name": "ema_net", ...}, with text for what is no plain value."""
    rows = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            rows.update({f"{key}.{inner}": x for inner, x in flat(value).items()})
        else:
            rows[key] = value if isinstance(value, (str, int, float, bool)) else str(value)
    return rows
