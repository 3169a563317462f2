"""How the tasks' losses, or their gradients, become the one direction that is followed.

config.balancing names the method, `METHODS` has them all. A training step (training/steps.py) works
out the tasks' losses and hands them to the `grads.GradsFn` that fits the method, which calls it:
`losses` has the methods that weigh losses, `gradients` those that reconcile gradients of shared
parameters, `base` what all of them share.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from emanet_jax import menu
from emanet_jax.balancing import gradients, losses
from emanet_jax.balancing.base import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Balancing,
    Combined,
    GradientBalancing,
    setting,
)
from emanet_jax.balancing.grads import grads_fn_for
from emanet_jax.balancing.shared import share_parameters
from emanet_jax.errors import UserError, choose, end
from emanet_jax.types import Model, Task

__all__ = [
    "METHODS",
    "NOT_NEGATIVE",
    "POSITIVE",
    "SHARE",
    "Balancing",
    "Combined",
    "GradientBalancing",
    "check",
    "from_config",
    "grads_fn_for",
    "make_balancing",
    "methods_on",
    "register",
    "setting",
]

METHODS: dict[str, type[Balancing]] = {
    # On losses: one backward pass.
    "equal": losses.Equal,
    "fixed": losses.Fixed,
    "uncertainty": losses.Uncertainty,
    "dwa": losses.Dwa,
    "rlw": losses.Rlw,
    "gls": losses.Gls,
    "stch": losses.Stch,
    "famo": losses.Famo,
    "imtl_l": losses.ImtlL,
    # On the gradients of shared parameters: one backward pass per task.
    "pcgrad": gradients.PcGrad,
    "cagrad": gradients.CaGrad,
    "mgda": gradients.Mgda,
    "gradnorm": gradients.GradNorm,
    "graddrop": gradients.GradDrop,
    "gradvac": gradients.GradVac,
    "imtl_g": gradients.ImtlG,
    "nash_mtl": gradients.NashMtl,
    "aligned_mtl": gradients.AlignedMtl,
    "fairgrad": gradients.FairGrad,
    "db_mtl": gradients.DbMtl,
}


def register(name: str, method: type[Balancing]) -> None:
    """Adds a method of your own, for config.balancing; call it in a file for config.extension.

    Args:
        name: of the method.
        method: a subclass of `Balancing` or `GradientBalancing`, to be made with the fields of
            `Balancing` and its own `base.setting`s.

    Raises:
        UserError: the name is one of this package's.
    """
    menu.METHODS.register(name, method, METHODS)


def methods_on(kind: str) -> list[str]:
    """The names of the methods on "losses" or on "gradients"."""
    return [
        name
        for name, method in METHODS.items()
        if issubclass(method, GradientBalancing) == (kind == "gradients")
    ]


def make_balancing(
    name: str,
    config_weights: Mapping[str, float],
    steps_per_epoch: int,
    settings: Mapping[str, Any] | None = None,
) -> Balancing:
    """A method of `METHODS` for these tasks.

    Args:
        name: of the method.
        config_weights: {task: weight} of config.task_weights, in the order of the arrays' axis 0.
        steps_per_epoch: of the training.
        settings: the method's named settings that are not its defaults.

    Raises:
        UserError: the name or a setting is unknown, or a setting is out of its range.
    """
    known = choose("config.balancing", name, METHODS).settings()
    for key in settings or {}:
        if key not in known:
            raise UserError(
                f"config.balancing_settings has '{key}', which {name} does not know; its settings: "
                f"{', '.join(known) or 'none'}{end(key, known)}"
            )
    return METHODS[name](
        config_weights=config_weights, steps_per_epoch=steps_per_epoch, **(settings or {})
    )


def from_config(config: Any, tasks: Sequence[Task], steps_per_epoch: int) -> Balancing:
    """The method of a whole config.

    Raises:
        UserError: as `make_balancing`, and if a task has no weight.
    """
    weights = {}
    for task in tasks:
        if task.name not in config.task_weights:
            raise UserError(f"config.task_weights has no weight for task '{task.name}'.")
        weights[task.name] = config.task_weights[task.name]
    settings = config.balancing_settings.to_dict()
    return make_balancing(config.balancing, weights, steps_per_epoch, settings)


def check(config: Any, tasks: Sequence[Task], model: Model) -> None:
    """Looks at a config's method before data are made ready for it.

    Raises:
        UserError: as `from_config` and `grads_fn_for`, and if the method reconciles gradients of
            shared parameters, but tracing the network finds none.
    """
    method = from_config(config, tasks, steps_per_epoch=1)
    grads_fn_for(method, tasks, task_gradients=config.task_gradients)
    on_gradients = isinstance(method, GradientBalancing)
    if on_gradients and not share_parameters(model, tasks, config.data.image_size):
        raise UserError(
            f"config.balancing is '{config.balancing}', which reconciles tasks' gradients of the "
            f"parameters that they share, but in {config.model.name} for "
            f"{', '.join(task.name for task in tasks)} none is shared; choose from "
            f"{', '.join(methods_on('losses'))}."
        )
