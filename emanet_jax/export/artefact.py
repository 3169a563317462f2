"""Writes an exported network whole or not at all: only what gives the network's own outputs."""

import contextlib
import functools
import importlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

from emanet_jax import inference
from emanet_jax.errors import UserError
from emanet_jax.export.formats import FORMATS, Network
from emanet_jax.training import steps, workdir

METADATA = "metadata.json"
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")
# What counts as rounding: of quantities, a share of the largest of them. A class may tie with
# another, and a vector be too short for its direction: few pixels may differ by more.
ROUNDING = {"float32": 1e-3, "bfloat16": 5e-2}
ODD_PIXELS = {"float32": 1e-3, "bfloat16": 2e-2}
_DYNAMIC_TRIAL = 2  # images of the trial, where any number may come

_LOG = logging.getLogger(__name__)


def network_of(
    trained: inference.Trained, batch: int | None, platforms: tuple[str, ...] = DEFAULT_PLATFORMS
) -> Network:
    """A run's network as it is exported, for `batch` images (None: any number) at a time."""
    config = trained.config
    return Network(
        predict=functools.partial(
            steps.predict,
            model=trained.model,
            tasks=trained.tasks,
        ),
        variables=trained.variables,
        image_size=tuple(config.data.image_size),
        batch=batch,
        platforms=platforms,
        about=f"{config.model.name} ({config.model.variant}) on {config.model.backbone} for "
        f"{config.data.dataset}, trained to step {trained.checkpoint.name}",
    )


def write(
    network: Network,
    trained: inference.Trained,
    format_name: str,
    output: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a network to the folder `output`, whole or not at all.

    What is written is loaded back, and stays only if it gives the network's own outputs.

    Args:
        network: what to write.
        trained: the run's network that it was made of.
        format_name: a key of `FORMATS`.
        output: the folder; it holds the format's files and metadata.json.
        overwrite: replace an export that is there.

    Returns:
        What metadata.json holds.

    Raises:
        UserError: something is there already, cannot be written, or gives other outputs.
    """
    check_output(output, overwrite)
    form = FORMATS[format_name]
    part = output.with_name(f".{output.name}.part")
    with _emptied(output, part):
        form.write(network, part)
        _LOG.info("Written; loading it back and comparing it with the network.")
        differences = _differences(network, trained, form.load(part))
        metadata = describe(network, trained, format_name, differences)
        (part / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
        old = output.with_name(f".{output.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if output.exists():
            output.rename(old)
        part.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    return metadata


def check_output(output: Path, overwrite: bool) -> None:
    """Raises UserError if `write` may not write this folder."""
    there = os.path.lexists(output)  # a link that leads nowhere, too
    if there and not overwrite:
        raise UserError(f"--output={output} is there already; --overwrite replaces it.")
    if there and not (output / METADATA).is_file():
        raise UserError(f"--output={output} is no export, and only one is replaced by --overwrite.")


@contextlib.contextmanager
def _emptied(output: Path, part: Path) -> Iterator[None]:
    """An empty folder `part` for the block to fill and move to `output`; else it is removed."""
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        words = workdir.disk_error(error, str(output.parent))
        if not words:
            raise
        raise UserError(f"--output={output} cannot be written: {words}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _differences(network: Network, trained: inference.Trained, loaded: Any) -> dict[str, float]:
    """The largest difference of every task between the network and what was loaded.

    Raises:
        UserError: they differ by more than rounding.
    """
    shape = (network.batch or _DYNAMIC_TRIAL, *network.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    wanted = jax.device_get(inference.predictor(trained)(images))
    found = {name: np.asarray(x) for name, x in loaded(images).items()}
    return compare(found, wanted, trained.config.precision)


def compare(
    found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], precision: str
) -> dict[str, float]:
    """The largest difference of every task: of quantities, or the share of pixels of other classes.

    Args:
        found: {task: (b, h, w, k)} of the export.
        wanted: the same of the network.
        precision: that it computes in, "float32" or "bfloat16".

    Raises:
        UserError: more pixels differ than rounding makes, or tasks, shapes or dtypes are others.
    """
    kinds = [
        {name: (x.shape, str(x.dtype)) for name, x in maps.items()} for maps in (found, wanted)
    ]
    if kinds[0] != kinds[1]:
        raise UserError(f"the export gives {kinds[0]}, where the network gives {kinds[1]}.")
    largest = {}
    for name, x in wanted.items():
        difference = np.abs(found[name].astype(np.float64) - x)
        if np.issubdtype(x.dtype, np.integer):
            odd = difference != 0
            largest[name] = float(odd.mean())
        else:
            bound = ROUNDING[precision] * float(np.abs(x).max())
            odd = ~(difference <= bound)  # also where it is no number
            largest[name] = float(difference.max())
        share = odd.any(-1).mean()
        if share > ODD_PIXELS[precision]:
            raise UserError(
                f"the export's {name} differs from the network's in {share:.2%} of the pixels, by "
                f"up to {difference.max():.3g}, which is more than rounding: it has been removed."
            )
    return largest


def describe(
    network: Network,
    trained: inference.Trained,
    format_name: str,
    differences: Mapping[str, float],
) -> dict[str, Any]:
    """What metadata.json says: all that a program needs that shall use the export."""
    config, form = trained.config, FORMATS[format_name]
    shapes = jax.eval_shape(network.of_images, network.images())
    tasks = {}
    for task in trained.tasks:
        *_, channels = shapes[task.name].shape
        tasks[task.name] = {
            "shape": [network.batch, *network.image_size, channels],
            "dtype": str(shapes[task.name].dtype),
            "unit": task.unit,
            "classes": list(task.class_names),
            "largest_difference": differences[task.name],
        }
    packages = {x: importlib.import_module(x).__version__ for x in form.packages}
    return {
        "format": format_name,
        "network": {
            **{key: config.model[key] for key in ("name", "variant", "backbone")},
            "precision": config.precision,
            "dataset": config.data.dataset,
            "weights": str(trained.checkpoint),
            "parameters": sum(x.size for x in jax.tree.leaves(trained.variables["params"])),
        },
        "input": {
            "name": "image",
            "shape": [network.batch, *network.image_size, 3],
            "dtype": "uint8",
            "range": [0, 255],
            "channels": "RGB",
        },
        "outputs": tasks,
        "platforms": list(network.platforms) if form.on_xla else [],
        "versions": {"jax": jax.__version__, "jaxlib": jaxlib.__version__, **packages},
    }
