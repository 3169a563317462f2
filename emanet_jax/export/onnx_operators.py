"""What every primitive that the networks use on images is in ONNX's operators: `RULES`."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from emanet_jax.export.onnx_graph import Graph, Rule, Shape, Tensor, Value, is_known
from emanet_jax.export.onnx_products import PRODUCTS
from emanet_jax.export.onnx_rules import cast, refuse, shape_of, whole


def _common(values: Sequence[Value]) -> Shape:
    """The shape that ONNX's broadcasting gives; JAX's ranks are the same, or 0."""
    rank = max(len(x.shape) for x in values)
    shapes = [x.shape if x.shape else (1,) * rank for x in values]
    return tuple(
        next((n for n in sizes if not isinstance(n, int) or n != 1), 1)
        for sizes in zip(*shapes, strict=True)
    )


def _each(graph: Graph, eqn: Any, *values: Value, operator: str) -> Tensor:
    return graph.add(operator, *values, shape=_common(values))


def _compare(graph: Graph, eqn: Any, *values: Value, operator: str) -> Tensor:
    dtype = eqn.invars[0].aval.dtype
    if operator == "And" and dtype.kind != "b":
        refuse(eqn, "whole numbers")
    if operator != "And" and dtype.itemsize < 4:  # runtimes lack small integers
        values = [cast(graph, x, np.int32) for x in values]
    return graph.add(operator, *values, shape=_common(values))


def _convert(graph: Graph, eqn: Any, x: Value) -> Value:
    dtype = eqn.params["new_dtype"]
    return x if eqn.invars[0].aval.dtype == dtype else cast(graph, x, dtype)


def _same(graph: Graph, eqn: Any, *values: Value) -> Sequence[Value]:
    return values


def _rsqrt(graph: Graph, eqn: Any, x: Value) -> Tensor:
    return graph.add("Reciprocal", graph.add("Sqrt", x, shape=x.shape), shape=x.shape)


def _erfc(graph: Graph, eqn: Any, x: Value) -> Tensor:
    one = np.ones((), eqn.invars[0].aval.dtype)
    return graph.add("Sub", one, graph.add("Erf", x, shape=x.shape), shape=x.shape)


def _not_equal(graph: Graph, eqn: Any, *values: Value) -> Tensor:
    equal = _compare(graph, eqn, *values, operator="Equal")
    return graph.add("Not", equal, shape=equal.shape)


def _select(graph: Graph, eqn: Any, which: Value, *cases: Value) -> Value:
    if isinstance(which, np.ndarray) and which.size == 1:
        return cases[int(which.item())]
    if eqn.invars[0].aval.dtype != bool:
        refuse(eqn, "more than two cases")
    return graph.add("Where", which, *cases[::-1], shape=_common((which, *cases)))


def _iota(graph: Graph, eqn: Any, *_: Value) -> np.ndarray:
    shape, axis = shape_of(eqn), eqn.params["dimension"]
    line = np.arange(shape[axis], dtype=eqn.params["dtype"])
    return line.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _size(graph: Graph, eqn: Any) -> Value:
    size = graph.size(eqn.params["dim"])
    line = graph.add("Squeeze", size, np.zeros(1, np.int64), shape=())
    return cast(graph, line, eqn.outvars[0].aval.dtype)


def _broadcast(graph: Graph, eqn: Any, x: Value, *_: Value) -> Value:
    places = eqn.params["broadcast_dimensions"]
    return graph.unsqueeze(x, [i for i in range(len(shape_of(eqn))) if i not in places])


def _reshape(graph: Graph, eqn: Any, x: Value, *_: Value) -> Value:
    (x,) = whole(graph, eqn, x)
    shape = shape_of(eqn)
    if x.shape == shape:
        return x
    sizes = [n if is_known([n]) else -1 for n in shape]
    if sizes.count(-1) > 1 or eqn.params["dimensions"] is not None:
        refuse(eqn, f"the shape {shape}")
    return graph.add("Reshape", x, np.array(sizes, np.int64), shape=shape)


def _squeeze(graph: Graph, eqn: Any, x: Value) -> Value:
    return _without(graph, x, eqn.params["dimensions"])


def _without(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    """The value without these axes of 1."""
    if isinstance(x, np.ndarray):
        return np.squeeze(x, tuple(axes))
    shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    return graph.add("Squeeze", x, np.array(axes, np.int64), shape=shape) if axes else x


def _transpose(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.transpose(x, eqn.params["permutation"])


def _concatenate(graph: Graph, eqn: Any, *values: Value) -> Tensor:
    values = whole(graph, eqn, *values)
    return graph.add("Concat", *values, shape=shape_of(eqn), axis=eqn.params["dimension"])


def _stack(graph: Graph, eqn: Any, *values: Value) -> Value:
    return graph.stack(values, eqn.params["axis"], shape_of(eqn))


def _split(graph: Graph, eqn: Any, x: Value) -> list[Tensor]:
    (x,) = whole(graph, eqn, x)
    sizes = np.array(eqn.params["sizes"], np.int64)
    shapes = [variable.aval.shape for variable in eqn.outvars]
    return graph.add_many("Split", x, sizes, shapes=shapes, axis=eqn.params["axis"])


def _cut(graph: Graph, x: Value, starts: Shape, ends: Shape, steps: Shape, shape: Shape) -> Value:
    """x[starts:ends:steps]; axes that keep all they have are left alone."""
    axes = [i for i, (old, new) in enumerate(zip(x.shape, shape, strict=True)) if old != new]
    if not axes:
        return x
    parts = [np.array([part[i] for i in axes], np.int64) for part in (starts, ends)]
    by = np.array([steps[i] for i in axes], np.int64)
    return graph.add("Slice", x, *parts, np.array(axes, np.int64), by, shape=shape)


def _slice(graph: Graph, eqn: Any, x: Value) -> Value:
    (x,) = whole(graph, eqn, x)
    starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(starts)
    return _cut(graph, x, starts, ends, steps, shape_of(eqn))


def _cut_at(graph: Graph, eqn: Any, x: Value, starts: Sequence[Value], sizes: Shape) -> Value:
    """A block of x that begins at `starts`, moved so that it lies within."""
    begin = []
    for start, size, all_ in zip(starts, sizes, x.shape, strict=True):
        if size != all_ and not isinstance(start, np.ndarray):
            refuse(eqn, "a place that depends on the image")
        begin.append(0 if size == all_ else min(max(int(start.item()), 0), all_ - size))
    ends = [start + size for start, size in zip(begin, sizes, strict=True)]
    return _cut(graph, x, begin, ends, (1,) * len(begin), sizes)


def _dynamic_slice(graph: Graph, eqn: Any, x: Value, *starts: Value) -> Value:
    (x,) = whole(graph, eqn, x)
    return _cut_at(graph, eqn, x, starts[: len(x.shape)], shape_of(eqn))


def _gather(graph: Graph, eqn: Any, x: Value, starts: Value) -> Value:
    """Of known places: one block, as x[:, 0] or x[..., 1:], or rows and columns, as x[:, ::2]."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    (x,) = whole(graph, eqn, x)
    if not isinstance(starts, np.ndarray) or numbers.operand_batching_dims:
        refuse(eqn, "places that depend on the image")
    starts = np.broadcast_to(starts, eqn.invars[1].aval.shape)
    if starts.ndim == 1:
        places: list[Value] = [np.zeros((), np.int32) for _ in x.shape]
        for axis, start in zip(numbers.start_index_map, starts, strict=True):
            places[axis] = np.asarray(start)
        block = _cut_at(graph, eqn, x, places, sizes)
        return _without(graph, block, numbers.collapsed_slice_dims)
    axes = tuple(i for i in range(len(shape_of(eqn))) if i not in numbers.offset_dims)
    grid = np.moveaxis(starts, -1, 0)
    lines = [np.moveaxis(part, i, -1).reshape(-1, part.shape[i])[0] for i, part in enumerate(grid)]
    plain = axes == numbers.start_index_map == numbers.collapsed_slice_dims
    if not plain or not np.array_equal(grid, np.meshgrid(*lines, indexing="ij")):
        refuse(eqn, "places that are no grid")
    for axis, line in zip(axes, lines, strict=True):
        shape = (*x.shape[:axis], len(line), *x.shape[axis + 1 :])
        x = graph.add("Gather", x, line.astype(np.int64), shape=shape, axis=axis)
    return x


def _pad(graph: Graph, eqn: Any, x: Value, value: Value) -> Value:
    (x,) = whole(graph, eqn, x)
    low, high, between = zip(*eqn.params["padding_config"], strict=True)
    if any(between):
        refuse(eqn, "padding between elements")
    if not any((*low, *high)):
        return x
    return graph.add("Pad", x, np.array((*low, *high), np.int64), value, shape=shape_of(eqn))


_EACH = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "div": "Div",
    "exp": "Exp",
    "log": "Log",
    "logistic": "Sigmoid",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "sign": "Sign",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
_COMPARE = {
    "and": "And",
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
}

RULES: dict[str, Rule] = {
    **{name: functools.partial(_each, operator=x) for name, x in _EACH.items()},
    **{name: functools.partial(_compare, operator=x) for name, x in _COMPARE.items()},
    **PRODUCTS,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    "copy": _same,
    "dim_as_value": _size,
    "dynamic_slice": _dynamic_slice,
    "erfc": _erfc,
    "gather": _gather,
    "iota": _iota,
    "ne": _not_equal,
    "optimization_barrier": _same,
    "pad": _pad,
    "reshape": _reshape,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": lambda graph, eqn, x: graph.add("Mul", x, x, shape=x.shape),
    "squeeze": _squeeze,
    "stack": _stack,
    "stop_gradient": _same,
    "transpose": _transpose,
}
