"""The one error that is the user's to correct, and names in its message."""

import contextlib
import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeVar

Choice = TypeVar("Choice")


class UserError(ValueError):
    """A wrong flag, config value, file or folder; its message is one sentence with the remedy.

    Commands print the message alone and exit with status 1; other errors keep their traceback.
    """


# Libraries that one of the package's extras brings, which pyproject.toml lists; the others always
# come with it.
EXTRAS = {
    **dict.fromkeys(("PIL", "array_record", "grain", "matplotlib", "msgpack", "orbax"), "train"),
    **dict.fromkeys(("tensorflow_datasets", "tqdm"), "train"),
    **dict.fromkeys(("clu", "tensorboard"), "clu"),
    **dict.fromkeys(("h5py", "tensorflow"), "data"),
    **dict.fromkeys(("jinja2", "pandas"), "compare"),
    **dict.fromkeys(("imageio", "imageio_ffmpeg"), "video"),
    "huggingface_hub": "hub",
}


@contextlib.contextmanager
def needs(extra: str = "", otherwise: str = "") -> Iterator[None]:
    """Says what to install if the `with` block imports a library that is not there.

    Args:
        extra: that brings it; "": the one of `EXTRAS`.
        otherwise: what can be done without it, if anything.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = extra or EXTRAS.get((error.name or "").partition(".")[0], "")
        if not extra:
            raise
        end = f"; {otherwise}." if otherwise else "."
        raise UserError(
            f"this needs {error.name}, which is not installed: "
            f"pip install 'emanet-jax[{extra}]'{end}"
        ) from error


def listed(names: Iterable[str], most: int = 5) -> str:
    """Lists names that a file holds, in one short line: the first of them, how many more, or none.

    Args:
        names: any number of any strings.
        most: how many are named.
    """
    names = list(names)
    first = [repr(name[:200])[1:-1] + "..." * (len(name) > 200) for name in names[:most]]
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(first)}{rest}" if names else "none"


def choose(what: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    """Looks a name up.

    Raises:
        UserError: as `check_name`.
    """
    check_name(what, name, choices)
    return choices[name]


def check_name(what: str, name: str, choices: Collection[str]) -> None:
    """Checks that a name is known.

    Raises:
        UserError: it is not among the choices, which the message lists.
    """
    if name not in choices:
        raise UserError(f"{what} is {name!r}; choose from {', '.join(choices)}{end(name, choices)}")


def end(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the known one that was meant, if one is near.

    Of names such as "model.backbone" the last part is compared, whatever group it is looked for in.
    """
    last = {x: x.rpartition(".")[2] for x in known}
    spelt = name.rpartition(".")[2].lower().replace("-", "_")
    near = difflib.get_close_matches(spelt, dict.fromkeys(last.values()), n=1)
    meant = difflib.get_close_matches(name, [x for x in last if last[x] in near], n=1, cutoff=0)
    return f"; did you mean '{meant[0]}'?" if meant else "."
