"""The one error that is the user's to correct."""

from collections.abc import Mapping
from typing import TypeVar

Choice = TypeVar("Choice")


class UserError(ValueError):
    """A wrong flag, config value, file or folder; its message is one sentence with the remedy.

    Commands print the message alone and exit with status 1; other errors keep their traceback.
    """


def choose(what: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    """Looks a name up.

    Raises:
        UserError: it is not among the choices, which the message lists.
    """
    if name not in choices:
        raise UserError(f"{what} is {name!r}; choose from {', '.join(choices)}.")
    return choices[name]
