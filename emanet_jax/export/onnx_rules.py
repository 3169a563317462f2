"""What the rules of ONNX's operators share."""

from typing import Any

import numpy as np
from onnx import helper

from emanet_jax.errors import UserError
from emanet_jax.export.onnx_graph import Graph, Shape, Value


def shape_of(eqn: Any) -> Shape:
    """The shape of a primitive's first result."""
    return eqn.outvars[0].aval.shape


def whole(graph: Graph, eqn: Any, *values: Value) -> list[Value]:
    """A primitive's values in the whole shapes that they have in JAX."""
    return [graph.full(x, atom.aval.shape) for x, atom in zip(values, eqn.invars, strict=False)]


def refuse(eqn: Any, what: str) -> None:
    """Raises UserError: the primitive is used in a way that there is no rule for."""
    raise UserError(f"--format=onnx has no operator for '{eqn.primitive.name}' with {what}.")


def cast(graph: Graph, x: Value, dtype: Any) -> Value:
    """The value in another dtype."""
    if isinstance(x, np.ndarray):
        return x.astype(dtype)
    return graph.add("Cast", x, shape=x.shape, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
