"""Flags, log lines and exit status of the commands.

A command's module defines its flags (`define_config` for --config) and ends in `cli.run(command)`.
"""

import logging
import os
import re
import sys
from collections.abc import Callable

from absl import app, flags
from absl import logging as absl_logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from emanet_jax.config import LARGEST_SIDE, read_config, run_file, users_code
from emanet_jax.errors import UserError

flags.disclaim_key_flags()  # so that --help shows those that are made here as the command's own


def define_config() -> flags.FlagHolder:
    """The flag --config, and --config.KEY=VALUE for its values."""
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, with an optional argument: configs/nyuv2.py:model=hps,backbone=hrnet_w18. "
        "Single values: --config.batch_size=4. A run's own config.json starts the same run again.",
    )
    flags.FLAGS["config"].parser = _ConfigFile()
    return holder


class _ConfigFile(flags.ArgumentParser):
    """Turns the value of --config into a config; every error in its file is one sentence."""

    def parse(self, path: str) -> ConfigDict:
        """The locked config of FILE.py, FILE.py:ARGUMENT or config.json."""
        if path.endswith(".json"):
            return read_config(epath.Path(path), path)
        path, *argument = path.split(":", 1)
        if not os.path.isfile(path):
            raise UserError("there is no such file.")
        with users_code(path):
            content = run_file(os.path.abspath(path))
            config = content["get_config"](*argument) if "get_config" in content else None
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"{path} is no config file: it must have a function get_config that returns a "
                "ConfigDict, as configs/synthrooms.py does."
            )
        return config.lock()


def define_path(name: str, words: str) -> flags.FlagHolder[str]:
    """A flag --NAME that must be given, and not as empty; `words` are for --help."""
    holder = flags.DEFINE_string(name, None, words, required=True)
    flags.register_validator(name, lambda value: value != "", "it must not be empty")
    return holder


def image_size(flag: str, value: str) -> tuple[int, int]:
    """(h, w) of the value "288x384" of the flag --FLAG.

    Raises:
        UserError: it is no such size, or one that no backbone takes.
    """
    if not re.fullmatch(r"[0-9]{1,9}x[0-9]{1,9}", value):
        raise UserError(f"--{flag}={value} is no size; write it as 288x384.")
    h, w = map(int, value.split("x"))
    if any(side % 32 or not 32 <= side <= LARGEST_SIDE for side in (h, w)):
        raise UserError(
            f"--{flag}={value}: height and width must be multiples of 32 from 32 to {LARGEST_SIDE}."
        )
    return h, w


def run(command: Callable[[], int | None]) -> None:
    """Runs a command line and ends the process.

    Args:
        command: runs when the flags are parsed; returns the exit status (None: 0). It imports the
            libraries that load slowly itself, so that --help and wrong flags answer at once.

    A `UserError` or a wrong flag prints one line, "error: ...", and exits with 1.
    """
    try:
        app.run(lambda _: _with_log(command), flags_parser=_parse_flags)
    except UserError as error:
        sys.exit(f"error: {error}")


def _with_log(command: Callable[[], int | None]) -> int | None:
    """Runs the command with this package's log on standard output, as plain lines.

    Libraries log warnings, on standard error; --verbosity=0 adds what they do.
    """
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)
        absl_logging.get_absl_handler().addFilter(_is_news)
    show_log()
    # TensorFlow, which builds data sets and writes logs, has nothing to tell a person.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    return command()


def show_log() -> None:
    """Shows this package's log on standard output as plain lines; for notebooks too, once."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("emanet_jax")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def _is_news(record: logging.LogRecord) -> bool:
    """Leaves out Orbax and TFDS: they warn of the usual, and their errors are raised as well."""
    return not re.search("orbax|tensorflow_datasets|asyncio", record.pathname)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; every error is one sentence."""
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # ml_collections' words for an unknown key
        key = str(error.args[0]).strip("\"'").split("'")[0]
        given = [arg for arg in argv if arg.startswith("--config.") and key in arg]
        raise UserError(
            f"{' '.join(given)}: the config has no key '{key}'; emanet_jax/config.py has all."
        ) from error
    except (TypeError, flags.Error) as error:
        raise UserError(" ".join(str(error).split())) from error
    if rest[1:]:
        raise UserError(f"'{rest[1]}' is no flag; flags are written as --NAME=VALUE.")
    return rest
