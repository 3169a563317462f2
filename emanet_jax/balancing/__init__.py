"""How the tasks' losses, or their gradients, become the one direction that is followed.

config.balancing names the method; `METHODS` has them all. `losses` has those that weigh losses,
`gradients` those that reconcile gradients of shared parameters, `record` what a method is.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from emanet_jax.balancing import gradients, losses
from emanet_jax.balancing.method import Balancing
from emanet_jax.errors import UserError

__all__ = ["GRADIENTS", "LOSSES", "METHODS", "Balancing", "make_balancing"]

# Methods on losses: one backward pass.
LOSSES: dict[str, Callable[..., Balancing]] = {
    "equal": losses.equal,
    "fixed": losses.fixed,
    "uncertainty": losses.uncertainty,
    "dwa": losses.dwa,
    "rlw": losses.rlw,
    "gls": losses.gls,
    "stch": losses.stch,
    "famo": losses.famo,
    "imtl_l": losses.imtl_l,
}

# Methods on the gradients of shared parameters: one backward pass per task.
GRADIENTS: dict[str, Callable[..., Balancing]] = {
    "pcgrad": gradients.pcgrad,
    "cagrad": gradients.cagrad,
    "mgda": gradients.mgda,
    "gradnorm": gradients.gradnorm,
    "graddrop": gradients.graddrop,
    "gradvac": gradients.gradvac,
    "imtl_g": gradients.imtl_g,
    "nash_mtl": gradients.nash_mtl,
    "aligned_mtl": gradients.aligned_mtl,
    "fairgrad": gradients.fairgrad,
    "db_mtl": gradients.db_mtl,
}

METHODS = LOSSES | GRADIENTS


def make_balancing(
    name: str,
    tasks: Sequence[str],
    steps_per_epoch: int,
    settings: Mapping[str, Any] | None = None,
) -> Balancing:
    """A method of `METHODS` for these tasks.

    Args:
        name: of the method.
        tasks: in the order of the arrays' axis 0.
        steps_per_epoch: of the training.
        settings: the method's named settings that are not its defaults.

    Raises:
        UserError: the name or a setting is unknown, or a setting is out of its range.
    """
    if name not in METHODS:
        raise UserError(f"config.balancing is '{name}'; known methods: {', '.join(METHODS)}.")
    for key, value in (settings or {}).items():
        _check_setting(name, key, value)
    return METHODS[name](len(tasks), steps_per_epoch, **(settings or {}))


def from_config(config: Any, tasks: Sequence[Any], steps_per_epoch: int) -> Balancing:
    """The method of a whole config; `tasks` have names. Raises as `make_balancing`."""
    names = [task.name for task in tasks]
    settings = config.balancing_settings.to_dict()
    return make_balancing(config.balancing, names, steps_per_epoch, settings)


def settings_of(name: str) -> dict[str, Any]:
    """The named settings of a method of `METHODS`, with their defaults."""
    parameters = inspect.signature(METHODS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _check_setting(name: str, key: str, value: Any) -> None:
    known = settings_of(name)
    if key not in known:
        raise UserError(
            f"config.balancing_settings has '{key}', which {name} does not know; its settings: "
            f"{', '.join(known) or 'none'}."
        )
    words, holds = inspect.signature(METHODS[name]).parameters[key].annotation.__metadata__[0]
    if type(value) not in (int, float) or not holds(value):
        raise UserError(f"config.balancing_settings.{key} is {value!r}; it must be {words}.")
