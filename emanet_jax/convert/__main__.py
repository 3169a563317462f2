"""PyTorch weights of the published code to a run, and a run's weights to PyTorch's names.

    python -m emanet_jax.convert --from=checkpoint.pth --to=runs/published \\
        --config=nyuv2:model=ema_net,variant=released \\
        --config.data.manual_dir=/data/nyuv2 --config.image_statistics=unit
    python -m emanet_jax.main --mode=eval --workdir=runs/published

    python -m emanet_jax.convert --from=runs/nyuv2 --to=weights.safetensors

A run that was made from a file can be evaluated, exported, and trained further. The published CNN
code feeds images in [0, 1]: that is --config.image_statistics=unit. Where the weights were trained
at another image size than the config's, --trained_at=288x384 resizes CTAL's fusions.
"""

import logging
import re
from pathlib import Path

from absl import flags
from etils import epath

from emanet_jax import cli
from emanet_jax.errors import UserError, listed

_CONFIG = cli.define_config()
_FROM = cli.define_path("from", "File of weights (.pth, .safetensors, .npz), or a run's workdir.")
_TO = cli.define_path("to", "Workdir to make, or a .safetensors or .npz file.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what is at --to.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "Which checkpoint of a run to take."
)
_LEAVE_OUT = flags.DEFINE_string(
    "leave_out", None, "Regular expression of names in the file that are not the network's."
)
_TRAINED_AT = flags.DEFINE_string(
    "trained_at", None, "Image size, 288x384, that CTAL's fusions in the file were made for."
)

_LOG = logging.getLogger("emanet_jax.convert")


def _import() -> None:
    # Imported here, so that flags are checked and --help answers before the libraries load.
    from emanet_jax.models.weights import reading

    config = _CONFIG.value
    if config is None:
        raise UserError(
            "a file of weights becomes a run by a config: give --config, such as "
            "--config=nyuv2:model=ema_net,variant=released."
        )
    with config.unlocked():
        config.model.pretrained = ""
    try:
        pattern = re.compile(_LEAVE_OUT.value or "(?!)")  # (?!) matches no name
    except re.error as error:
        raise UserError(
            f"--leave_out={_LEAVE_OUT.value} is no regular expression: {error}."
        ) from error
    trained_at = None
    if _TRAINED_AT.value is not None:
        trained_at = cli.image_size("trained_at", _TRAINED_AT.value)

    state_dict = reading.read_state_dict(_FROM.value)
    left_out = {name: x for name, x in state_dict.items() if pattern.fullmatch(name)}
    kept = {name: x for name, x in state_dict.items() if name not in left_out}
    if left_out:
        names = listed((f"{name} {x.shape}" for name, x in left_out.items()), most=20)
        _LOG.info("%s: left out, as asked for: %s.", _FROM.value, names)
    elif _LEAVE_OUT.value is not None:
        raise UserError(f"--leave_out={_LEAVE_OUT.value} matches no name in {_FROM.value}.")
    losses = [name for name in kept if name.startswith(reading.BESIDE_THE_NETWORK)]
    if losses:
        raise UserError(
            f"{_FROM.value} holds weights of its loss beside the network's: {listed(losses)}; "
            "a run does not need them, and --leave_out='(loss|criterion).*' leaves them out."
        )
    to = Path(_TO.value).expanduser().absolute()
    _use_cpu()
    from emanet_jax.convert import runs

    runs.write_run(config, kept, to, trained_at, _OVERWRITE.value)


def _export() -> None:
    for flag in (_CONFIG, _LEAVE_OUT, _TRAINED_AT):
        if flag.value is not None:
            raise UserError(
                f"--from={_FROM.value} is a run, which has its own config: leave --{flag.name} out."
            )
    to = Path(_TO.value).expanduser()
    _use_cpu()
    from emanet_jax.convert import runs

    runs.check_file(to, _OVERWRITE.value)
    config, state_dict = runs.read_run(epath.Path(_FROM.value).expanduser(), _CHECKPOINT.value)
    runs.write_weights(config, state_dict, to, _OVERWRITE.value)


def _use_cpu() -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing is computed; leave accelerators alone


def _command() -> None:
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
