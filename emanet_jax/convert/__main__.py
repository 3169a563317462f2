"""PyTorch weights of the published code to a run, and a run's weights to PyTorch's names.

    python -m emanet_jax.convert --from=checkpoint.pth --to=runs/published \\
        --config=configs/nyuv2.py:model=ema_net,variant=released \\
        --config.data.manual_dir=/data/nyuv2 --config.image_statistics=unit
    python -m emanet_jax.main --mode=eval --workdir=runs/published

    python -m emanet_jax.convert --from=runs/nyuv2 --to=weights.safetensors

A run that was made from a file can be evaluated, exported, and trained further. The published CNN
code feeds images in [0, 1]: that is --config.image_statistics=unit. Instead of --config,
--dataset=nyuv2 --model=ema_net takes that data set's config with variant=released; then
--image_statistics and --manual_dir are flags of their own. Other image sizes than the weights were
trained at: --trained_at=288x384 resizes CTAL's fusions.
"""

import importlib
import logging
import re
from pathlib import Path

import ml_collections
from absl import flags
from etils import epath

from emanet_jax import cli
from emanet_jax.errors import UserError

_CONFIG = cli.define_config()
_FROM = cli.define_path("from", "File of weights (.pth, .safetensors, .npz), or a run's workdir.")
_TO = cli.define_path("to", "Workdir to make, or a .safetensors or .npz file.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what is at --to.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "Which checkpoint of a run to take."
)
_DATASET = flags.DEFINE_string("dataset", None, "Data set, instead of --config: nyuv2.")
_LEAVE_OUT = flags.DEFINE_string(
    "leave_out", None, "Regular expression of names in the file that are not the network's."
)
_TRAINED_AT = flags.DEFINE_string(
    "trained_at", None, "Image size, 288x384, that CTAL's fusions in the file were made for."
)
_IMAGE_SIZE = flags.DEFINE_string("image_size", None, "Image size of the run, 288x384.")
_STATISTICS = flags.DEFINE_enum(
    "image_statistics",
    None,
    ["imagenet", "unit"],
    "How images are fed: standardised, or in [0, 1] as the published CNN code does.",
)
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Folder of the data set's files.")
# Flags that stand for fields of config.model.
_NETWORK = {
    "model": flags.DEFINE_string("model", None, "Network of the menu, such as ema_net."),
    "backbone": flags.DEFINE_string("backbone", None, "Its backbone, such as hrnet_w18."),
    "variant": flags.DEFINE_string(
        "variant", None, "paper or released; the published code's, released, with --dataset."
    ),
}

_LOG = logging.getLogger("emanet_jax.convert")


def _size(flag: flags.FlagHolder) -> tuple[int, int] | None:
    return None if flag.value is None else cli.image_size(flag.name, flag.value)


def _make_config() -> ml_collections.ConfigDict:
    """The config of the run to make, from --config or --dataset and the flags beside them."""
    if (_CONFIG.value is None) == (_DATASET.value is None):
        raise UserError(
            "a file of weights becomes a run by a config: give either --config, such as "
            "--config=configs/nyuv2.py:model=ema_net,variant=released, or --dataset=nyuv2."
        )
    given = {name: flag.value for name, flag in _NETWORK.items() if flag.value is not None}
    if _DATASET.value is not None:
        config = _config_of(_DATASET.value, {"variant": "released"} | given)
    else:
        config = _CONFIG.value
    with config.unlocked():
        config.model.update({"name" if key == "model" else key: x for key, x in given.items()})
        config.model.pretrained = ""
        config.data.image_size = _size(_IMAGE_SIZE) or config.data.image_size
        config.data.manual_dir = _MANUAL_DIR.value or config.data.manual_dir
        config.image_statistics = _STATISTICS.value or config.image_statistics
    return config


def _config_of(dataset: str, given: dict[str, str]) -> ml_collections.ConfigDict:
    from emanet_jax.tasks import DATASETS

    if dataset not in DATASETS:
        raise UserError(f"--dataset={dataset} is unknown; choose from {', '.join(DATASETS)}.")
    module = importlib.import_module(f"configs.{dataset}")
    return module.get_config(",".join(f"{key}={value}" for key, value in given.items()))


def _import() -> None:
    from emanet_jax.convert import runs
    from emanet_jax.models.weights import reading

    try:
        pattern = None if _LEAVE_OUT.value is None else re.compile(_LEAVE_OUT.value)
    except re.error as error:
        raise UserError(
            f"--leave_out={_LEAVE_OUT.value} is no regular expression: {error}."
        ) from error
    config = _make_config()
    state_dict = reading.read_state_dict(_FROM.value)
    kept = {
        name: value
        for name, value in state_dict.items()
        if pattern is None or not pattern.fullmatch(name)
    }
    left = [f"{name} {x.shape}" for name, x in state_dict.items() if name not in kept]
    if pattern is not None and not left:
        raise UserError(f"--leave_out={_LEAVE_OUT.value} matches no name in {_FROM.value}.")
    if left:
        _LOG.info("%s: left out, as asked for: %s.", _FROM.value, ", ".join(left))
    losses = [name for name in kept if name.startswith(reading.BESIDE_THE_NETWORK)]
    if losses:
        raise UserError(
            f"{_FROM.value} holds weights of its loss beside the network's: {', '.join(losses)}; "
            "a run does not need them, and --leave_out='(loss|criterion).*' leaves them out."
        )
    to = Path(_TO.value).expanduser().absolute()
    runs.write_run(config, kept, to, _size(_TRAINED_AT), _OVERWRITE.value)


def _export() -> None:
    from emanet_jax.convert import runs

    of_import = [_CONFIG, _DATASET, _LEAVE_OUT, _TRAINED_AT, _IMAGE_SIZE, _STATISTICS, _MANUAL_DIR]
    odd = [f"--{flag.name}" for flag in (*of_import, *_NETWORK.values()) if flag.value is not None]
    if odd:
        raise UserError(f"{_FROM.value} is a run, which has its own config: leave {odd[0]} out.")
    to = Path(_TO.value).expanduser()
    runs.check_file(to, _OVERWRITE.value)
    config, state_dict = runs.read_run(epath.Path(_FROM.value).expanduser(), _CHECKPOINT.value)
    runs.write_weights(config, state_dict, to, _OVERWRITE.value)


def _command() -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing is computed; leave accelerators alone
    if "://" in _TO.value:
        raise UserError(
            f"--to={_TO.value} is no place on a disk: write it to one, and copy it from there with "
            "'gcloud storage cp -r'."
        )
    if epath.Path(_FROM.value).expanduser().is_dir():
        _export()
    else:
        _import()


if __name__ == "__main__":
    cli.run(_command)
