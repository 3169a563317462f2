"""Trains or evaluates; one sentence for what is the user's to mend.

    python -m emanet_jax.main --config=configs/nyuv2.py:model=ema_net --workdir=runs/nyuv2 \\
        --config.data.manual_dir=/data/nyuv2
    python -m emanet_jax.main --mode=eval --workdir=runs/nyuv2

Started again with the same flags, it goes on where it stopped.
"""

from absl import flags

from emanet_jax import cli
from emanet_jax.errors import UserError

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics, pictures.", required=True
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate a workdir.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "Which checkpoint --mode=eval takes."
)


def _command() -> None:
    if _MODE.value == "train" and _CONFIG.value is None:
        raise UserError("--mode=train needs --config, such as --config=configs/synthrooms.py.")
    # Imported here, so that flags are checked and --help answers before the libraries load.
    from emanet_jax import train

    if _MODE.value == "train":
        train.train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    else:
        train.evaluate_workdir(_WORKDIR.value, _CHECKPOINT.value)


if __name__ == "__main__":
    cli.run(_command)
