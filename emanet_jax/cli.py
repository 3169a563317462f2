"""What the commands share: flags, quiet libraries, one sentence for what is the user's to mend.

A command's module defines its flags (`define_config` for --config) and ends in `cli.run(command)`.
"""

import logging
import os
import sys
from collections.abc import Callable

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from emanet_jax.errors import UserError


def define_config() -> flags.FlagHolder:
    """The flag --config, and --config.KEY=VALUE for its values."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, with an optional argument: configs/nyuv2.py:model=hps,backbone=hrnet_w18. "
        "Single values: --config.batch_size=4.",
    )


def run(command: Callable[[], int | None]) -> None:
    """Runs a command line and ends the process.

    Args:
        command: runs when the flags are parsed; returns the exit status (None: 0). It imports the
            libraries that load slowly itself, so that --help and wrong flags answer at once.

    A `UserError` or a wrong flag prints one line, "error: ...", and exits with 1.
    """
    try:
        app.run(lambda _: _quietly(command), flags_parser=_parse_flags)
    except UserError as error:
        sys.exit(f"error: {error}")


def _quietly(command: Callable[[], int | None]) -> int | None:
    """Runs the command with this package's notes as plain lines, the libraries' on --verbosity."""
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.ERROR)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("emanet_jax")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return command()


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
