"""What the commands share: flags, quiet libraries, one sentence for what is the user's to mend.

A command's module defines its flags (`define_config` for --config) and ends in `cli.run(command)`.
"""

import logging
import os
import pathlib
import re
import runpy
import sys
from collections.abc import Callable

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from emanet_jax.config import LARGEST_SIDE
from emanet_jax.errors import UserError

flags.disclaim_key_flags()  # so that --help shows those that are made here as the command's own

_CONFIG_FLAGS = ("--config", "-config")
_SAVED = pathlib.Path(__file__).parent / "config.py"  # whose get_config reads a config.json
# What a faulty config file can raise.
_FAULTS_OF_CODE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def define_config() -> flags.FlagHolder:
    """The flag --config, and --config.KEY=VALUE for its values."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, with an optional argument: configs/nyuv2.py:model=hps,backbone=hrnet_w18. "
        "Single values: --config.batch_size=4. A run's own config.json starts the same run again.",
    )


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
        app.run(lambda _: _quietly(command), flags_parser=_parse_flags)
    except UserError as error:
        sys.exit(f"error: {error}")


def _quietly(command: Callable[[], int | None]) -> int | None:
    """Runs the command with this package's notes as plain lines, the libraries' on --verbosity."""
    if not flags.FLAGS["verbosity"].present:
        # What goes wrong in their threads reaches us as an error as well.
        absl_logging.set_verbosity(absl_logging.FATAL)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("emanet_jax")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return command()


def _from_json(arg: str) -> str:
    """--config=runs/a/config.json as a config file with an argument; anything else as it is."""
    name, _, value = arg.partition("=")
    is_json = name in _CONFIG_FLAGS and value.endswith(".json")
    return f"{name}={_SAVED}:{value}" if is_json else arg


def _parse_flags(argv: list[str]) -> list[str]:
    """Flags, with every fault of the user's as one sentence."""
    argv = [_from_json(arg) for arg in _joined(argv)]
    for arg in argv:
        name, _, value = arg.partition("=")
        if name in _CONFIG_FLAGS:
            _try_config(*value.partition(":")[::2])
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


def _joined(argv: list[str]) -> list[str]:
    """Arguments, "--config", "FILE" as the one "--config=FILE"."""
    joined, rest = [], iter(argv)
    for arg in rest:
        joined.append(f"{arg}={next(rest, '')}" if arg in _CONFIG_FLAGS else arg)
    return joined


def _try_config(path: str, arg: str) -> None:
    """Runs a config file before the flags do, whose words for its faults are many.

    Raises:
        UserError: there is no such file, it is no config file, or it refuses its argument.
    """
    if not os.path.isfile(path):
        raise UserError(f"--config={path}: there is no such file.")
    try:
        content = runpy.run_path(path)
        config = content["get_config"](*([arg] if arg else [])) if "get_config" in content else None
    except UserError:
        raise
    except _FAULTS_OF_CODE as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"--config={path} cannot be run as a config file ({said}).") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={path} is no config file: it must have a function get_config that returns "
            "a ConfigDict, as configs/synthrooms.py does."
        )
