"""Flags, log lines and exit status of the commands.

A command's module defines its flags (`define_config` for --config) and ends in `cli.run(command)`.
"""

import ast
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from etils import epath
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import tuple_parser

from emanet_jax.config import (
    FREE,
    LARGEST_SIDE,
    check_config,
    default_config,
    flatten,
    read_config,
    run_file,
    spell_out,
    users_code,
)
from emanet_jax.errors import UserError, end, needs

flags.disclaim_key_flags()  # so that --help shows those that are made here as the command's own

_HELP = {"-h", "-help", "--help", "-helpshort", "--helpshort", "-?", "--?"}
_LONGEST = 400  # characters of a word that an error line quotes whole


def define_config(*, required: bool = False) -> flags.FlagHolder:
    """The flag --config, and --config.KEY=VALUE for its values."""
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "A recipe of configs/ by its name, or a config file, with an optional argument: "
        "nyuv2:model=hps,backbone=hrnet_w18. Single values: --config.batch_size=4; "
        "emanet_jax/config.py has every key. A run's own config.json starts the same run again.",
    )
    flags.FLAGS["config"].parser = _ConfigFile()
    if required:
        flags.mark_flag_as_required("config")
    return holder


class _ConfigFile(flags.ArgumentParser):
    """Turns the value of --config into a config; every error in its file is one sentence."""

    def parse(self, path: str) -> ConfigDict:
        """The locked config of RECIPE, FILE.py, either with :ARGUMENT, or config.json."""
        if path.endswith(".json"):
            return _with_known_keys(read_config(epath.Path(path), path))
        path, *argument = path.split(":", 1)
        path = find_recipe(path)
        with users_code(f"--config={path}"):
            content = run_file(os.path.abspath(path))
            config = content["get_config"](*argument) if "get_config" in content else None
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"{path} is no config file: it must have a function get_config that returns a "
                "ConfigDict, as configs/synthrooms.py does."
            )
        return _with_known_keys(config.lock())


def find_recipe(name: str) -> str:
    """The config file that --config names: a file, or the name of one in configs/.

    configs/ is the current folder's, then that of the package's checkout or installation.

    Raises:
        UserError: there is none.
    """
    if os.path.isfile(name):
        return name
    package = Path(__file__).parent
    folders = [Path("configs"), package.parent / "configs", package / "recipes"]
    recipes = {
        path.stem: str(path)
        for folder in reversed(folders)
        for path in sorted(folder.glob("*.py"))
        if not path.stem.startswith("_")
    }
    if name not in recipes:
        stem = Path(name).stem
        raise UserError(
            f"--config={name}: there is no such file, and no such recipe; choose from "
            f"{', '.join(recipes)}{end(stem, recipes)}"
        )
    return recipes[name]


def _with_known_keys(config: ConfigDict) -> ConfigDict:
    """The config, if it has the key of every --config.KEY of the command line.

    Raises:
        UserError: it has not.
    """
    keys = list(flatten(config))
    groups = {key[: dot.start()] for key in keys for dot in re.finditer(r"\.", key)}
    for arg in flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False):
        found = re.match(r"--?(?:no)?config\.([^=]*)", arg)
        if found and found[1] not in {*keys, *groups, *FREE}:
            raise UserError(
                f"{arg}: the config has no key '{found[1]}'; emanet_jax/config.py has all"
                f"{end(found[1], keys)}"
            )
    return config


class _Tuple(tuple_parser.TupleParser):
    """Reads semseg,depth and 288x384 beside what Python calls a tuple."""

    def parse(self, argument: object) -> tuple:
        """The tuple that a word stands for; tuples stay as they are."""
        if not isinstance(argument, str):
            return super().parse(argument)
        if re.fullmatch(r"[0-9]{1,9}x[0-9]{1,9}", argument):
            return tuple(map(int, argument.split("x")))
        try:
            value = ast.literal_eval(argument)
        except (SyntaxError, ValueError):  # names without quotation marks
            inside = re.sub(r"^[(\[](.*)[)\]]$", r"\1", argument.strip())
            words = [word.strip(" \"'") for word in inside.split(",")]
            return tuple(words if words[-1] else words[:-1])
        return tuple(value) if isinstance(value, (tuple, list)) else (value,)


config_flags.register_flag_parser_for_type(tuple, _Tuple())


def define_path(name: str, words: str) -> flags.FlagHolder[str]:
    """A flag --NAME that must be given, and not as empty; `words` are for --help."""
    holder = flags.DEFINE_string(name, None, words, required=True)
    flags.register_validator(name, lambda value: value != "", "it must not be empty")
    return holder


def image_size(flag: str, value: str) -> tuple[int, int]:
    """(h, w) of the value "288x384" or "288,384" of the flag --FLAG.

    Raises:
        UserError: it is no such size, or one that no backbone takes.
    """
    if not re.fullmatch(r"[0-9]{1,9}[x,][0-9]{1,9}", value):
        raise UserError(f"--{flag}={value} is no size; write it as 288x384.")
    h, w = map(int, re.split("[x,]", value))
    if any(side % 32 or not 32 <= side <= LARGEST_SIDE for side in (h, w)):
        raise UserError(
            f"--{flag}={value}: height and width must be multiples of 32 from 32 to {LARGEST_SIDE}."
        )
    return h, w


def check_names(flag: str, values: Iterable[str], known: Collection[str]) -> None:
    """Raises UserError if one of the values of the flag --FLAG is not known."""
    for value in values:
        if value not in known:
            raise UserError(
                f"--{flag}={value} is unknown; choose from {', '.join(known)}{end(value, known)}"
            )


def run(command: Callable[[], int | None]) -> None:
    """Runs a command line and ends the process.

    Args:
        command: runs when the flags are parsed; returns the exit status (None: 0). It imports the
            libraries that load slowly itself, so that --help and wrong flags answer at once.

    A `UserError` or a wrong flag prints one line, "error: ...", and exits with 1.
    """
    if _HELP & set(sys.argv[1:]):
        app.define_help_flags()
        app.usage(shorthelp=True, writeto_stdout=True)
        return
    try:
        app.run(lambda _: _with_log(command), flags_parser=_parse_flags)
    except UserError as error:
        long_word = rf"\S{{{_LONGEST},}}?(?=[:;,.']*(\s|$))"
        words = re.sub(long_word, lambda word: f"{word[0][:60]}...", str(error))
        sys.exit(f"error: {words}")


def _with_log(command: Callable[[], int | None]) -> int | None:
    """Runs the command with this package's log on standard output, as plain lines.

    Libraries log warnings, on standard error; --verbosity=0 adds what they do.
    """
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)
        absl_logging.get_absl_handler().addFilter(_is_news)
    show_log()
    sys.unraisablehook = _report_unraisable
    # TensorFlow, which builds data sets and writes logs, has nothing to tell a person.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with needs():
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


def _report_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python's hook, less the threads that report to a save that has failed, a line per array."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags, and looks at the config's values; every error is one sentence."""
    try:
        rest = flags.FLAGS([argv[0], *_repeated(argv[1:])])
    except UserError:
        raise
    except flags.UnrecognizedFlagError as error:
        raise _unknown_flag(error.flagname) from error
    except (MemoryError, RecursionError) as error:  # absl's and Python's for words without end
        longest = max(argv, key=len)
        raise UserError(f"{longest} is too long, or too deeply nested, to be read.") from error
    except (TypeError, ValueError, flags.Error) as error:
        if isinstance(error.__context__, UserError):  # absl puts its own words around it
            raise error.__context__ from None
        absl_words = " ".join(str(error).split())
        missing = re.fullmatch(r"flag --(\w+)=None: Flag --\1 must have a value .*", absl_words)
        if missing:
            words, *_ = flags.FLAGS[missing[1]].help.split(". ")
            words = re.sub(r"<(.*)>: (.*)\.", r"\2: \1", words).replace("|", ", ")  # of an enum
            raise UserError(
                f"--{missing[1]} is missing: {words[0].lower()}{words[1:].rstrip('.')}."
            ) from error
        raise UserError(absl_words) from error
    if rest[1:]:
        raise UserError(f"'{rest[1]}' is no flag; flags are written as --NAME=VALUE.")
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if config is not None:
        spell_out(config)
        check_config(config)
    return rest


def _repeated(args: list[str]) -> list[str]:
    """The words behind a flag of several values, which shells make of a glob, as one flag each."""
    words: list[str] = []
    flag = ""
    for arg, following in itertools.zip_longest(args, args[1:], fillvalue="-"):
        if arg.startswith("-"):
            name, has_value, _ = arg.partition("=")
            bare = name.lstrip("-")
            several = bare in flags.FLAGS and isinstance(flags.FLAGS[bare], flags.MultiFlag)
            flag = f"{name}=" if several else ""
            if several and not has_value and not following.startswith("-"):
                continue
            words.append(arg)
        else:
            words.append(flag + arg)
    return words


def _unknown_flag(name: str) -> UserError:
    """The error about a flag that the command does not have, or has as a key of the config."""
    known = list(flags.FLAGS)
    if "config" in known:
        known += [f"config.{key}" for key in flatten(default_config())]
    if name in known:
        return UserError(f"--{name} changes a config: give --config, such as --config=synthrooms.")
    return UserError(f"--{name} is no flag of this command; --help has all{end(name, known)}")
