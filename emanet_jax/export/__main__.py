"""A run's network as a folder that other programs load: StableHLO, SavedModel or ONNX.

    python -m emanet_jax.export --workdir=runs/nyuv2 --format=stablehlo --output=exported
    python -m emanet_jax.export --workdir=runs/nyuv2 --format=savedmodel --output=exported
    python -m emanet_jax.export --workdir=runs/nyuv2 --format=onnx --output=exported

It takes images as cameras give them, RGB uint8 (batch, h, w, 3), and gives what a person reads, by
task: class ids, metres, unit vectors, probabilities, (batch, h, w, k). The folder's metadata.json
names tasks, units, classes and sizes.

stablehlo needs JAX alone to load (jax.export), savedmodel TensorFlow, onnx any ONNX runtime (opset
18). What has been written is loaded back and compared with the network on random images; it stays
only if they agree. All happens on the CPU, also for other platforms.
"""

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from etils import epath

from emanet_jax import cli
from emanet_jax.errors import UserError

if TYPE_CHECKING:
    from emanet_jax.inference import Trained

_WORKDIR = cli.define_path("workdir", "Folder of the run; emanet_jax.convert makes one, too.")
_FORMAT = flags.DEFINE_enum(
    "format", None, ["stablehlo", "savedmodel", "onnx"], "What to write.", required=True
)
_OUTPUT = cli.define_path("output", "Folder to make.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the export that is at --output.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "Which checkpoint of the run to take."
)
_BATCH = flags.DEFINE_string(
    "batch", "dynamic", "Images at a time: a number, or dynamic for any number."
)
_SIZE = flags.DEFINE_string("size", None, "Size of the images, 288x384; the run's.")
_PRECISION = flags.DEFINE_enum(
    "precision", None, ["float32", "bfloat16"], "What the network computes in; as the run."
)
_PLATFORMS = flags.DEFINE_list(
    "platforms", None, "Of stablehlo and savedmodel: cpu, cuda, rocm, tpu; cpu,cuda,tpu."
)
_LARGEST_BATCH = 65536

_LOG = logging.getLogger("emanet_jax.export")


def _batch() -> int | None:
    """--batch; None: any number."""
    if _BATCH.value == "dynamic":
        return None
    value = _BATCH.value
    digits = value.isascii() and value.isdecimal() and len(value) <= len(str(_LARGEST_BATCH))
    if not digits or not 1 <= int(value) <= _LARGEST_BATCH:
        raise UserError(
            f"--batch={value} must be dynamic or a whole number from 1 to {_LARGEST_BATCH}."
        )
    return int(value)


def _platforms() -> tuple[str, ...]:
    from emanet_jax.export.artefact import DEFAULT_PLATFORMS
    from emanet_jax.export.formats import FORMATS, PLATFORMS

    if _PLATFORMS.value is None:
        return DEFAULT_PLATFORMS
    if not FORMATS[_FORMAT.value].on_xla:
        raise UserError(
            f"--format={_FORMAT.value} is the same for all platforms: leave --platforms out."
        )
    chosen = tuple(_PLATFORMS.value)
    if not set(chosen) <= set(PLATFORMS) or "cpu" not in chosen or len(set(chosen)) < len(chosen):
        raise UserError(
            f"--platforms={','.join(chosen)} must be some of {', '.join(PLATFORMS)}, each once, "
            "and cpu among them, on which the export is checked."
        )
    return chosen


def _check_packages() -> None:
    from emanet_jax.export.formats import FORMATS

    packages = FORMATS[_FORMAT.value].packages
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format={_FORMAT.value} needs {' and '.join(missing)}, which "
            f"this Python lacks: pip install {' '.join(missing)}."
        )


def _load() -> "Trained":
    """The network at the size and precision that the flags ask for."""
    from emanet_jax import inference
    from emanet_jax.training.experiment import make_network

    size = None if _SIZE.value is None else cli.image_size("size", _SIZE.value)
    trained = inference.load(epath.Path(_WORKDIR.value).expanduser(), _CHECKPOINT.value, size)
    config = trained.config.copy_and_resolve_references()
    with config.unlocked():
        config.precision = _PRECISION.value or config.precision
    if _FORMAT.value == "onnx" and config.precision != "float32":
        raise UserError(
            f"--format=onnx has no {config.precision}, in which this run computes; "
            "--precision=float32 exports the same weights."
        )
    _, model = make_network(config)
    return trained._replace(config=config, model=model)


def _command() -> None:
    batch = _batch()
    if "://" in _OUTPUT.value:
        raise UserError(
            f"--output={_OUTPUT.value} is no place on a disk: write it to one, and copy it from "
            "there with gcloud storage cp -r."
        )
    output = Path(_OUTPUT.value).expanduser().absolute()

    # Imported here, so that flags are checked and --help answers before the libraries load.
    import jax

    jax.config.update("jax_platforms", "cpu")  # exact float32, and accelerators are left alone
    from emanet_jax.export import artefact
    from emanet_jax.export.formats import FORMATS

    platforms = _platforms()
    _check_packages()
    artefact.check_output(output, _OVERWRITE.value)
    trained = _load()
    network = artefact.network_of(trained, batch, platforms)
    h, w = network.image_size
    _LOG.info("%s: %s, images of %dx%d.", trained.checkpoint, network.about, h, w)
    metadata = artefact.write(network, trained, _FORMAT.value, output, _OVERWRITE.value)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    _LOG.info("%s: %.1f MB; image uint8 %s", output, size / 1e6, _words(metadata["input"]["shape"]))
    for name, task in metadata["outputs"].items():
        differ = "share of other classes" if task["classes"] else "largest difference"
        _LOG.info(
            "  %s %s %s; %s from the network's: %.1g",
            *(name, task["dtype"], _words(task["shape"]), differ, task["largest_difference"]),
        )
    _LOG.info("To load it: %s", FORMATS[_FORMAT.value].recipe.replace("FOLDER", str(output)))


def _words(shape: list[int | None]) -> str:
    return f"({', '.join('batch' if n is None else str(n) for n in shape)})"


if __name__ == "__main__":
    cli.run(_command)
