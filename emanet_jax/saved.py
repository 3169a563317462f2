"""A trained network as a folder, which needs neither data nor checkpoints, and on Hugging Face.

The folder holds model.safetensors, with every array by its path, such as
params/backbone/stem1/conv/kernel; config.json, with the run's config, what is known of the training
and the digests of both files; and README.md, the model card.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from emanet_jax import strict_json
from emanet_jax.config import check_config, parse_config, to_json
from emanet_jax.errors import UserError, listed
from emanet_jax.models.weights.pretrained import fetch
from emanet_jax.training.workdir import WEIGHTS

CONFIG, CARD = "config.json", "README.md"
_LIBRARY = "emanet_jax"
_REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"


def write(
    folder: Path,
    config: ConfigDict,
    variables: Mapping[str, Any],
    training: Mapping[str, Any],
    card: str,
) -> None:
    """Writes the three files.

    Args:
        folder: exists, and is empty.
        config: the run's.
        variables: {"params", "batch_stats"}.
        training: what is known of it, as JSON has it.
        card: Markdown.
    """
    arrays = {"/".join(path): np.asarray(x) for path, x in flatten_dict(dict(variables)).items()}
    content = save(arrays, metadata={"format": "flax", "library": _LIBRARY})
    (folder / WEIGHTS).write_bytes(content)
    values = json.loads(to_json(config))
    extension = values.pop("extension")
    described = {
        "library": _LIBRARY,
        "config": values,
        "extension": Path(extension).name,
        "training": dict(training),
        "sha256": {WEIGHTS: hashlib.sha256(content).hexdigest()},
    }
    described["sha256"][CONFIG] = _digest(described)
    (folder / CONFIG).write_text(strict_json.dumps(described, indent=2) + "\n")
    (folder / CARD).write_text(card)


def read(folder: epath.Path) -> tuple[ConfigDict, dict[str, np.ndarray]]:
    """The config and the arrays by their paths, of a folder that `write` has made.

    No code of the folder's runs, whoever wrote it: it holds numbers and names.

    Raises:
        UserError: a file is missing, damaged or something else, or the network needs a file of
            somebody's own that has not been run.
    """
    described = _read_description(folder)
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != described["sha256"].get(WEIGHTS):
        raise UserError(
            f"{path} is damaged: its SHA-256 is not the one in {CONFIG}; fetch or save it again."
        )
    try:
        arrays = load(content)
    except (SafetensorError, LookupError, TypeError, ValueError) as error:  # types it has none for
        raise UserError(f"{path} is no file of weights: {error}.") from error
    values = described.get("config")
    if not isinstance(values, dict):
        raise UserError(f"{folder / CONFIG} holds no config.")
    # A stranger's file is not run.
    config = parse_config({**values, "extension": ""}, f"{folder / CONFIG}")
    try:
        check_config(config)
    except UserError as error:
        if not described.get("extension"):
            raise
        raise UserError(
            f"{folder} needs {described['extension']}, which registers its network, data set or "
            f"tasks: run that file first ({str(error).rstrip('.')})."
        ) from error
    return config, arrays


def _read_description(folder: epath.Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        described = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(described, dict) or described.get("library") != _LIBRARY:
        raise UserError(f"{path} is none that emanet_jax.save_pretrained has written.")
    digests = described.get("sha256")
    if not isinstance(digests, dict) or _digest(described) != digests.get(CONFIG):
        raise UserError(
            f"{path} was changed after it was written: its SHA-256 is not the one it states; fetch "
            "or save it again."
        )
    return described


def _digest(described: Mapping[str, Any]) -> str:
    """SHA-256 of all that config.json says but its own digest."""
    digests = {key: x for key, x in described["sha256"].items() if key != CONFIG}
    return hashlib.sha256(strict_json.dumps({**described, "sha256": digests}).encode()).hexdigest()


def variables_of(
    folder: epath.Path, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """The arrays as the variables of a network, of which `shapes` are the abstract ones.

    Raises:
        UserError: they are not that network's, by name, shape and type.
    """
    like = {"/".join(path): x for path, x in flatten_dict(dict(shapes)).items()}
    found, expected = (
        {name: (tuple(x.shape), np.dtype(x.dtype)) for name, x in tree.items()}
        for tree in (arrays, like)
    )
    differing = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    if differing:
        raise UserError(
            f"{folder} holds other arrays than its config's network: {listed(differing)}."
        )
    variables = unflatten_dict({tuple(name.split("/")): x for name, x in arrays.items()})
    return {"params": {}, "batch_stats": {}} | variables


def is_repository(name: str) -> bool:
    """Whether a name can be that of a repository, owner/name."""
    return re.fullmatch(_REPOSITORY, name) is not None


def fetch_repository(name: str) -> epath.Path:
    """The folder of a repository's files on this machine, fetched if need be.

    Raises:
        UserError: they cannot be fetched.
    """
    end = "emanet_jax.load takes a run's workdir, a saved folder or such a name"
    paths = [fetch(name, file, name, end) for file in (CONFIG, WEIGHTS)]
    return epath.Path(paths[0].parent)
