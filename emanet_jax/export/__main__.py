"""A run's network as a folder that other programs load: StableHLO, SavedModel or ONNX.

    python -m emanet_jax.export --workdir=runs/nyuv2 --format=stablehlo --output=exported
    python -m emanet_jax.export --workdir=runs/nyuv2 --format=savedmodel --output=exported

It takes images as cameras give them, RGB uint8 (batch, h, w, 3), and gives the maps that a person
reads, by task: class ids, metres, unit vectors, probabilities, (batch, h, w, k). They stand in the
run's order of tasks, the same in every format (a SavedModel's have names alone). The folder's
metadata.json names tasks, units, classes, sizes and that order.

stablehlo needs JAX alone to load (jax.export), savedmodel TensorFlow, onnx any ONNX runtime (opset
18). What has been written is loaded back and compared with the network on random images; it stays
only if they agree. All happens on the CPU, also for other platforms.

ONNX is written by jax2onnx, which wants an older Orbax: in an environment of its own,

    uv run --no-project --isolated --with-requirements requirements-onnx.txt \\
        python -m emanet_jax.export --workdir=runs/nyuv2 --format=onnx --output=exported
"""

import importlib.util
import logging
from pathlib import Path

from absl import flags
from etils import epath

from emanet_jax import cli
from emanet_jax.config import CHOICES, SHORT, spell_out
from emanet_jax.errors import UserError

_WORKDIR = cli.define_path("workdir", "Folder of the run; emanet_jax.convert makes one, too.")
_FORMAT = flags.DEFINE_enum(
    "format", None, ["stablehlo", "savedmodel", "onnx"], "Format to write.", required=True
)
_OUTPUT = cli.define_path("output", "Folder to make.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the export that is at --output.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "Which checkpoint of the run to take."
)
_BATCH = flags.DEFINE_integer(
    "batch", None, "Images at a time; any number unless given.", lower_bound=1, upper_bound=65536
)
_SIZE = flags.DEFINE_string("size", None, "Size of the images, 288x384; the run's.")
_PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    [*CHOICES["precision"], *SHORT],
    "Precision of the network's computations; the run's.",
)
_PLATFORMS = flags.DEFINE_list(
    "platforms", None, "For stablehlo and savedmodel: cpu, cuda, rocm, tpu; cpu,cuda,tpu."
)

_LOG = logging.getLogger("emanet_jax.export")


def _command() -> None:
    if "://" in _OUTPUT.value:
        raise UserError(
            f"--output={_OUTPUT.value} is no place on a disk: write it to one, and copy it from "
            "there with gcloud storage cp -r."
        )
    output = Path(_OUTPUT.value).expanduser().absolute()
    size = None if _SIZE.value is None else cli.image_size("size", _SIZE.value)

    # Imported here, so that flags are checked and --help answers before the libraries load.
    from emanet_jax.training import workdir

    directory = workdir.absolute(epath.Path(_WORKDIR.value).expanduser())
    workdir.load_config(directory)
    import jax

    jax.config.update("jax_platforms", "cpu")  # exact float32, and accelerators are left alone
    from emanet_jax import inference
    from emanet_jax.export import writing
    from emanet_jax.export.formats import FORMATS
    from emanet_jax.network import make_network

    platforms = _check_platforms(writing.DEFAULT_PLATFORMS)
    chosen = FORMATS[_FORMAT.value]
    missing = [name for name in chosen.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format={_FORMAT.value} needs {' and '.join(missing)}, which this Python lacks: "
            f"{chosen.install}"
        )
    writing.check_output(output, _OVERWRITE.value)
    trained = inference.load_trained(directory, _CHECKPOINT.value, size)
    config = trained.config.copy_and_resolve_references()
    with config.unlocked():
        config.precision = _PRECISION.value or config.precision
        spell_out(config)
    if _FORMAT.value == "onnx" and config.precision != "float32":
        raise UserError(
            f"--format=onnx has no {config.precision}, in which this run computes; "
            "--precision=float32 exports the same weights."
        )
    _, model = make_network(config)
    trained = trained._replace(config=config, model=model)

    network = writing.network_of(trained, _BATCH.value, platforms)
    h, w = network.image_size
    _LOG.info("%s: %s, images of %dx%d.", trained.checkpoint, network.description, h, w)
    metadata = writing.write(network, trained, _FORMAT.value, output, _OVERWRITE.value)
    megabytes = sum(path.stat().st_size for path in output.rglob("*") if path.is_file()) / 1e6
    _LOG.info("%s: %.1f MB; image uint8 %s", output, megabytes, _shape(metadata["input"]))
    for name, task in metadata["outputs"].items():
        kind = "share of other classes" if task["classes"] else "largest difference"
        _LOG.info(
            "  %s %s %s; %s from the network's: %.1g",
            *(name, task["dtype"], _shape(task), kind, task["largest_difference"]),
        )
    _LOG.info("To load it: %s", chosen.recipe.replace("FOLDER", str(output)))


def _check_platforms(default: tuple[str, ...]) -> tuple[str, ...]:
    from emanet_jax.export.formats import FORMATS, PLATFORMS

    if _PLATFORMS.value is None:
        return default
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


def _shape(array: dict) -> str:
    return f"({', '.join('batch' if n is None else str(n) for n in array['shape'])})"


if __name__ == "__main__":
    cli.run(_command)
