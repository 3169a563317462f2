"""The one error that is the user's to correct, how registries raise it, and names in messages."""

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

Choice = TypeVar("Choice")


class UserError(ValueError):
    """A wrong flag, config value, file or folder; its message is one sentence with the remedy.

    Commands print the message alone and exit with status 1; other errors keep their traceback.
    """


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
        UserError: it is not among the choices, which the message lists.
    """
    if name not in choices:
        raise UserError(f"{what} is {name!r}; choose from {', '.join(choices)}.")
    return choices[name]


def register(
    what: str, name: str, entry: Choice, registry: dict[str, Choice], own: Collection[str]
) -> None:
    """Adds a user's entry to a registry, or replaces it, as a cell of a notebook that runs again.

    Args:
        what: kind of the entry, for the message.
        name: of the entry.
        entry: what `choose` gives for it.
        registry: of this package.
        own: the names that this package gave its own entries.

    Raises:
        UserError: the name is one of these.
    """
    if name in own:
        raise UserError(f"{what} '{name}' is one of this package's own; choose another name.")
    registry[name] = entry
