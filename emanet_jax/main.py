"""Trains or evaluates: flags, a quiet TensorFlow, and one sentence for what is the user's to mend.

    python -m emanet_jax.main --config=configs/nyuv2.py:model=ema_net --workdir=runs/nyuv2 \\
        --config.data.manual_dir=/data/nyuv2
    python -m emanet_jax.main --mode=eval --workdir=runs/nyuv2

Started again with the same flags, it goes on where it stopped.
"""

import logging
import os
import sys
from collections.abc import Sequence

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from emanet_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, with an optional argument: configs/nyuv2.py:model=hps,backbone=hrnet_w18. "
    "Single values: --config.batch_size=4.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics, pictures.", required=True
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate a workdir.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "Which checkpoint --mode=eval takes."
)


def _set_up_logs() -> None:
    """This package's notes as plain lines; the libraries' only if --verbosity asks for them."""
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.ERROR)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("emanet_jax")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False


def _run(_: Sequence[str]) -> None:
    if _MODE.value == "train" and _CONFIG.value is None:
        raise UserError("--mode=train needs --config, such as --config=configs/synthrooms.py.")
    _set_up_logs()
    # Imported here, so that flags are checked and --help answers before the libraries load.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from emanet_jax import train

    if _MODE.value == "train":
        train.train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    else:
        train.evaluate_workdir(_WORKDIR.value, _CHECKPOINT.value)


def _parse_flags(argv: list[str]) -> list[str]:
    """Flags, with every fault of the user's as one sentence."""
    for arg in argv:
        name, _, value = arg.partition("=")
        path = value.partition(":")[0]
        if name in ("--config", "-config") and not os.path.isfile(path):
            raise UserError(f"--config={path}: there is no such file.")
    try:
        return flags.FLAGS(argv)
    except AttributeError as error:  # ml_collections' word for a key that the config lacks
        key = str(error).strip("\"'").split("'")[0]
        given = [arg for arg in argv if arg.startswith("--config.") and key in arg]
        raise UserError(
            f"{' '.join(given)}: the config has no key '{key}'; configs/common.py lists all keys."
        ) from error
    except (UserError, flags.Error) as error:
        # What a config file raises arrives wrapped, a traceback in its text: take the innermost.
        chain: list[BaseException] = [error]
        while chain[-1].__context__ is not None:
            chain.append(chain[-1].__context__)
        causes = [link for link in chain if isinstance(link, UserError)]
        raise UserError(str([error, *causes][-1]).strip()) from error


def main() -> None:
    """Runs the command line; a `UserError` or a wrong flag prints one line and exits with 1."""
    try:
        app.run(_run, flags_parser=_parse_flags)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
