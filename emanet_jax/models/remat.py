"""Memory for time: which activations a network makes anew backwards, instead of keeping them.

It is chosen where the network is applied and not in its modules: a Flax interceptor wraps calls of
modules in `nn.remat`, so that parameters, names and results are those of the network itself.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from emanet_jax.errors import choose
from emanet_jax.models.backbones import segnet, swin
from emanet_jax.models.heads import DeepLabHead, HRNetHead
from emanet_jax.models.layers import BasicBlock, BottleneckBlock
from emanet_jax.models.networks.segnet import Mask
from emanet_jax.types import Model

# What every network is a stack of, backbone and decoder alike.
BLOCKS = (BasicBlock, BottleneckBlock, DeepLabHead, HRNetHead, Mask, segnet.Scale, swin.Block)


def _is_block(module: nn.Module, within: list[nn.Module]) -> bool:
    return isinstance(module, BLOCKS) and not any(isinstance(outer, BLOCKS) for outer in within)


def _is_part_or_block(module: nn.Module, within: list[nn.Module]) -> bool:
    """The network's parts (backbone, heads, ...), and the blocks of a part that is made anew."""
    return (len(module.path) > 0 and not within) or _is_block(module, within)


# (a module, the wrapped ones that it is called in) to whether to wrap it: of such modules only what
# goes in and comes out is kept.
CHOICES: dict[str, Callable[[nn.Module, list[nn.Module]], bool]] = {
    "nothing": lambda module, within: False,
    "blocks": _is_block,
    "everything": _is_part_or_block,
}


@dataclasses.dataclass(frozen=True)
class Rematerialised:
    """A network that keeps less for its backward pass; `init` and `apply` are the network's.

    Attributes:
      network: any network of the registry.
      choice: one of CHOICES.
    """

    network: Model
    choice: str

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """The network's variables."""
        return self.network.init(*args, **kwargs)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """The network's predictions."""
        with nn.intercept_methods(_interceptor(CHOICES[self.choice])):
            return self.network.apply(*args, **kwargs)


def rematerialised(network: Model, choice: str) -> Model:
    """A network that recomputes what `choice` names; "nothing" gives the network itself.

    Raises:
      UserError: the choice is unknown.
    """
    choose("config.remat", choice, CHOICES)
    return network if choice == "nothing" else Rematerialised(network, choice)


def _interceptor(chosen: Callable[[nn.Module, list[nn.Module]], bool]) -> Callable[..., Any]:
    within: list[nn.Module] = []  # the modules that are being wrapped, outermost first
    entered: list[bool] = []  # of each, whether its own call has come by

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if within and not entered[-1]:
            entered[-1] = True
            return call(*args, **kwargs)
        if context.method_name != "__call__" or not chosen(module, within):
            return call(*args, **kwargs)
        arrays, rest = _partition((args, kwargs))

        def again(module: nn.Module, arrays: list[jax.Array]) -> Any:
            entered[-1] = False
            args, kwargs = rest(arrays)
            return module(*args, **kwargs)

        within.append(module)
        entered.append(False)
        try:
            return nn.remat(again)(module, arrays)
        finally:
            within.pop()
            entered.pop()

    return intercept


def _partition(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """The arrays of a tree, and how to put others in their places; all else stays as it is."""
    leaves, structure = jax.tree.flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def join(arrays: list[jax.Array]) -> Any:
        filled = dict(enumerate(leaves)) | dict(zip(places, arrays, strict=True))
        return jax.tree.unflatten(structure, [filled[i] for i in range(len(leaves))])

    return [leaves[i] for i in places], join
