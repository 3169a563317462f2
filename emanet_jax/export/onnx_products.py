"""Products, sums, convolutions and pools in ONNX's operators: what a network's time goes to."""

import functools
from typing import Any

import numpy as np

from emanet_jax.export.onnx_graph import Graph, Rule, Tensor, Value
from emanet_jax.export.onnx_rules import cast, refuse, shape_of, whole


def _reduce(graph: Graph, eqn: Any, x: Value, operator: str) -> Tensor:
    (x,) = whole(graph, eqn, x)
    axes = np.array(eqn.params["axes"], np.int64)
    return graph.add(operator, x, axes, shape=shape_of(eqn), keepdims=0)


def _argmax(graph: Graph, eqn: Any, x: Value) -> Value:
    (x,), (axis,) = whole(graph, eqn, x), eqn.params["axes"]
    found = graph.add("ArgMax", x, shape=shape_of(eqn), axis=axis, keepdims=0)
    return cast(graph, found, eqn.params["index_dtype"])


def _dot(graph: Graph, eqn: Any, x: Value, y: Value) -> Tensor:
    x, y = whole(graph, eqn, x, y)
    (of_x, of_y), (batch_x, batch_y) = eqn.params["dimension_numbers"]
    last = len(x.shape) - 1
    if not batch_x and (of_x, of_y) == ((last,), (0,)) and len(y.shape) == 2:
        return graph.add("MatMul", x, y, shape=shape_of(eqn))
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left = [next(letters) for _ in x.shape]
    pairs = dict(zip((*of_y, *batch_y), (*of_x, *batch_x), strict=True))
    right = [left[pairs[i]] if i in pairs else next(letters) for i in range(len(y.shape))]
    out = [left[i] for i in batch_x]
    out += [a for i, a in enumerate(left) if i not in (*of_x, *batch_x)]
    out += [a for i, a in enumerate(right) if i not in (*of_y, *batch_y)]
    equation = f"{''.join(left)},{''.join(right)}->{''.join(out)}"
    return graph.add("Einsum", x, y, shape=shape_of(eqn), equation=equation)


def _conv(graph: Graph, eqn: Any, x: Value, kernel: Value) -> Value:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        refuse(eqn, "a dilated input or groups of the batch")
    x, kernel = whole(graph, eqn, x, kernel)
    result = graph.add(
        "Conv",
        graph.transpose(x, numbers.lhs_spec),
        graph.transpose(kernel, numbers.rhs_spec),
        shape=tuple(shape_of(eqn)[axis] for axis in numbers.out_spec),
        strides=params["window_strides"],
        pads=[end for ends in zip(*params["padding"], strict=True) for end in ends],
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )
    return graph.transpose(result, np.argsort(numbers.out_spec).tolist())


def _pool(graph: Graph, eqn: Any, x: Value) -> Value:
    (x,) = whole(graph, eqn, x)
    window, padding = eqn.params["window_dimensions"], eqn.params["padding"]
    strides, dilations = eqn.params["window_strides"], eqn.params["window_dilation"]
    axes = [i for i, size in enumerate(window) if size > 1]
    rest = [i for i in range(len(window)) if i not in axes]
    odd = any(strides[i] != 1 or any(padding[i]) for i in rest)
    if len(rest) != 2 or odd or set(eqn.params["base_dilation"]) != {1}:
        refuse(eqn, f"the window {window}")
    order = [*rest, *axes]
    result = graph.add(
        "MaxPool",
        graph.transpose(x, order),
        shape=tuple(shape_of(eqn)[axis] for axis in order),
        kernel_shape=[window[i] for i in axes],
        strides=[strides[i] for i in axes],
        dilations=[dilations[i] for i in axes],
        pads=[padding[i][end] for end in (0, 1) for i in axes],
    )
    return graph.transpose(result, np.argsort(order).tolist())


_REDUCE = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_sum": "ReduceSum"}

PRODUCTS: dict[str, Rule] = {
    **{name: functools.partial(_reduce, operator=x) for name, x in _REDUCE.items()},
    "argmax": _argmax,
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "reduce_window_max": _pool,
}
