"""Writes an exported network whole or not at all: only one that gives the network's own outputs."""

import functools
import importlib.metadata
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

from emanet_jax import inference, strict_json
from emanet_jax.errors import UserError
from emanet_jax.export.formats import FORMATS, Maps, Network
from emanet_jax.training import steps, workdir

METADATA = "metadata.json"
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")
# Differences that count as rounding, relative to the largest value of a task's map. A class may tie
# with another, and a vector be too short for its direction: a share of pixels may differ by more.
ROUNDING = {"float32": 1e-3, "bfloat16": 5e-2}
OTHER_PIXELS = {"float32": 1e-3, "bfloat16": 2e-2}
_DYNAMIC_TRIAL = 2  # images of the comparison, where any number may come

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
        tasks=tuple(task.name for task in trained.tasks),
        variables=trained.variables,
        image_size=tuple(config.data.image_size),
        batch=batch,
        platforms=platforms,
        description=f"{config.model.name} ({config.model.variant}) on {config.model.backbone} for "
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

    The folder is loaded back, and stays only if it gives the network's own outputs.

    Args:
        network: the network to write.
        trained: the trained network that it was made of.
        format_name: a key of `FORMATS`.
        output: the folder; it holds the format's files and metadata.json.
        overwrite: replace an export that is there.

    Returns:
        The content of metadata.json.

    Raises:
        UserError: something is there already, cannot be written, or gives other outputs or in
            another order.
    """
    check_output(output, overwrite)
    chosen = FORMATS[format_name]
    with workdir.new_directory("--output", output) as folder:
        chosen.write(network, folder)
        _LOG.info("Written; loading it back and comparing it with the network.")
        shape = (network.batch or _DYNAMIC_TRIAL, *network.image_size, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        actual = {name: np.asarray(x) for name, x in chosen.load(folder)(images).items()}
        expected = jax.device_get(inference.predictor(trained)(images))
        differences = compare(actual, expected, trained.config.precision)
        if chosen.ordered and list(actual) != list(network.tasks):
            raise UserError(
                f"the export gives {', '.join(actual)}, which is another order than the run's, "
                f"{', '.join(network.tasks)}."
            )
        metadata = describe(network, trained, format_name, differences)
        (folder / METADATA).write_text(strict_json.dumps(metadata, indent=2) + "\n")
    return metadata


def check_output(output: Path, overwrite: bool) -> None:
    """Raises UserError if `write` may not write this folder."""
    workdir.check_new_directory("--output", output, "export", METADATA, overwrite)


def compare(actual: Maps, expected: Maps, precision: str) -> dict[str, float]:
    """The largest difference of every task: of quantities, or the share of pixels of other classes.

    Args:
        actual: {task: (b, h, w, k)} of the export.
        expected: the network's.
        precision: of the network's computations, "float32" or "bfloat16".

    Raises:
        UserError: more pixels differ than rounding makes, or tasks, shapes or dtypes differ.
    """
    kinds = [
        {name: (x.shape, str(x.dtype)) for name, x in maps.items()} for maps in (actual, expected)
    ]
    if kinds[0] != kinds[1]:
        raise UserError(f"the export gives {kinds[0]}, where the network gives {kinds[1]}.")
    largest = {}
    for name, x in expected.items():
        difference = np.abs(actual[name].astype(np.float64) - x)
        if np.issubdtype(x.dtype, np.integer):
            differs = difference != 0
            largest[name] = float(differs.mean())
        else:
            bound = ROUNDING[precision] * float(np.abs(x).max())
            differs = ~(difference <= bound)  # also where it is NaN
            largest[name] = float(difference.max())
        share = differs.any(-1).mean()
        if share > OTHER_PIXELS[precision]:
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
    """The content of metadata.json.

    Its "output_order" is the run's order of the tasks, in which StableHLO and ONNX give the maps
    and in which its "outputs" stand; a SavedModel's outputs have names alone.
    """
    config, chosen = trained.config, FORMATS[format_name]
    tasks = {task.name: task for task in trained.tasks}
    outputs = {
        name: {
            "shape": [network.batch, *network.image_size, x.shape[-1]],
            "dtype": str(x.dtype),
            "unit": tasks[name].unit,
            "classes": list(tasks[name].class_names),
            "largest_difference": differences[name],
        }
        for name, x in jax.eval_shape(network.apply, network.image_spec()).items()
    }
    distributions = importlib.metadata.packages_distributions()
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
        "output_order": list(outputs),
        "outputs": outputs,
        "platforms": list(network.platforms) if chosen.on_xla else [],
        "versions": {
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            **{x: importlib.metadata.version(distributions[x][0]) for x in chosen.packages},
        },
    }
