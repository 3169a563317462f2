"""Runs from weights and weights from runs, for `python -m emanet_jax.convert`."""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import save_file

from emanet_jax import inference
from emanet_jax.config import to_json
from emanet_jax.convert import export_torch, import_torch
from emanet_jax.errors import UserError
from emanet_jax.network import abstract_variables, at_size, make_network, resized_variables
from emanet_jax.training import workdir
from emanet_jax.training.checkpoint import Checkpoints
from emanet_jax.training.experiment import checkpoint_policy, first_state
from emanet_jax.types import Model

_LOG = logging.getLogger(__name__)


def write_run(
    config: ml_collections.ConfigDict,
    state_dict: Mapping[str, np.ndarray],
    directory: Path,
    trained_at: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> None:
    """Makes a run whose checkpoint 0 has the weights of a PyTorch state dict, whole or not at all.

    It can be evaluated, and training in it goes on from these weights.

    Args:
      config: the run's config; its network must be the state dict's.
      state_dict: name to array in PyTorch's layouts.
      directory: the run's workdir.
      trained_at: (h, w) of the images that the fusions were made for, where it is another size than
        the config's: they are resized.
      overwrite: replace a run that is there.

    Raises:
      UserError: something is there already, or the state dict does not fit.
    """
    workdir.check_new_directory("--to", directory, "run", workdir.CONFIG, overwrite)
    tasks, model = make_network(config)
    variables = _import(config, state_dict, model, trained_at)
    state = first_state(config, tasks, variables)
    with workdir.new_directory("--to", directory) as folder:
        workdir.write(epath.Path(folder) / workdir.CONFIG, to_json(config))
        policy = checkpoint_policy(config, tasks)
        with Checkpoints(folder / workdir.CHECKPOINTS, policy) as checkpoints:
            checkpoints.save(state, 0)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    h, w = config.data.image_size
    _LOG.info(
        "%s: %s (%s) on %s for %s at %dx%d, %s parameters, images with %s statistics.",
        *(directory, config.model.name, config.model.variant, config.model.backbone),
        *(config.data.dataset, h, w, f"{count:,}", config.image_statistics),
    )
    _LOG.info("python -m emanet_jax.main --mode=eval --workdir=%s", directory)


def _import(
    config: ml_collections.ConfigDict,
    state_dict: Mapping[str, np.ndarray],
    model: Model,
    trained_at: tuple[int, int] | None,
) -> dict[str, Any]:
    size = tuple(config.data.image_size)
    if trained_at is None:
        shapes = abstract_variables(model, size)
        return import_torch(state_dict, config.model.name, shapes)
    _, theirs = make_network(at_size(config, trained_at))
    shapes = abstract_variables(theirs, trained_at)
    variables = import_torch(state_dict, config.model.name, shapes)
    return resized_variables(variables, config.model.backbone, trained_at, size)


def read_run(
    directory: epath.PathLike, which: str
) -> tuple[ml_collections.ConfigDict, dict[str, np.ndarray]]:
    """The config of a run, and a checkpoint's weights with PyTorch's names and layouts.

    Raises:
      UserError: the directory holds no run or no such checkpoint.
    """
    trained = inference.load_trained(directory, which)
    _LOG.info("%s", trained.checkpoint)
    return trained.config, export_torch(trained.variables, trained.config.model.name)


def check_file(path: Path, overwrite: bool) -> None:
    """Raises UserError if `write_weights` may not write this file."""
    if path.suffix not in (".safetensors", ".npz"):
        raise UserError(f"--to={path} must end in .safetensors or .npz.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(f"--to={path} is there already; --overwrite replaces a file.")


def write_weights(
    config: ml_collections.ConfigDict,
    state_dict: Mapping[str, np.ndarray],
    path: Path,
    overwrite: bool = False,
) -> None:
    """Writes a state dict to a .safetensors or .npz file, whole or not at all.

    The metadata of a .safetensors file names the network.

    Raises:
      UserError: the file's ending is another, or something is there already.
    """
    check_file(path, overwrite)
    part = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            np.savez(part, **state_dict)  # type: ignore[arg-type]  # NumPy's stubs: a bool
        else:
            save_file(
                dict(state_dict),
                part,
                metadata={
                    "format": "pt",
                    "model": config.model.name,
                    "variant": config.model.variant,
                    "backbone": config.model.backbone,
                    "tasks": ",".join(config.tasks),
                    "image_size": "x".join(map(str, config.data.image_size)),
                },
            )
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--to={path} cannot be written: {reason}.") from error
    _LOG.info("%s: %d tensors of %s.", path, len(state_dict), config.model.name)
