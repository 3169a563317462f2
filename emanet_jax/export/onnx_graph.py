"""A JAX function as an ONNX model: its jaxpr, primitive by primitive, in ONNX's operators.

Whatever does not depend on the input is computed while converting, so that only what a network does
to its images is left, and loops are unrolled. Broadcasts are left to ONNX's operators: a value may
have 1 where JAX's has more, until `Graph.full` is asked for it.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import onnx
from jax import export
from onnx import helper, numpy_helper

from emanet_jax.errors import UserError

OPSET, IR_VERSION = 18, 8  # of 2022 to 2023: what most runtimes know by now
Shape = tuple[Any, ...]  # of whole numbers, and symbols for what is known only when it runs
# Primitives that run another jaxpr, which is one of their parameters.
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint"}


class Tensor(NamedTuple):
    """What the model computes when it runs; the shape has 1 where JAX's may have more."""

    name: str
    shape: Shape


Value = Tensor | np.ndarray  # an array is known while converting
Rule = Callable[..., Value | Sequence[Value]]  # (graph, eqn, *values) to the primitive's results


class Graph:
    """Collects the nodes and constants of a model."""

    def __init__(self, image: Tensor) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._image = image
        self._transposed: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
        self._batch: Tensor | None = None

    def add(self, operator: str, *inputs: Value, shape: Shape, **attributes: Any) -> Tensor:
        """A node with one output."""
        return self.add_many(operator, *inputs, shapes=[shape], **attributes)[0]

    def add_many(
        self, operator: str, *inputs: Value, shapes: Sequence[Shape], **attributes: Any
    ) -> list[Tensor]:
        """A node with an output for every shape."""
        names = [x.name if isinstance(x, Tensor) else self._constant(x) for x in inputs]
        outputs = [f"{operator}_{len(self.nodes)}_{i}" for i in range(len(shapes))]
        self.nodes.append(helper.make_node(operator, names, outputs, **attributes))
        return [Tensor(name, tuple(shape)) for name, shape in zip(outputs, shapes, strict=True)]

    def _constant(self, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array).reshape(array.shape)
        name = f"{array.dtype}_{array.shape}_{hashlib.sha256(array.data).hexdigest()[:16]}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def full(self, x: Value, shape: Shape) -> Value:
        """The value in the whole shape that it has in JAX."""
        if x.shape == tuple(shape):
            return x
        if isinstance(x, np.ndarray) and is_known(shape):
            return np.broadcast_to(x, shape)
        return self.add("Expand", x, self.sizes(shape), shape=shape)

    def sizes(self, shape: Shape) -> Value:
        """A shape as int64 (rank,)."""
        if is_known(shape):
            return np.array(shape, np.int64)
        parts = [np.array([n], np.int64) if isinstance(n, int) else self.size(n) for n in shape]
        return self.add("Concat", *parts, shape=(len(shape),), axis=0)

    def size(self, symbol: Any) -> Tensor:
        """A symbol, or a multiple of it, as int64 (1,)."""
        if self._batch is None:
            self._batch = self.add("Shape", self._image, shape=(1,), start=0, end=1)
        times = symbol // self._image.shape[0]
        if times * self._image.shape[0] != symbol or not isinstance(times, int):
            raise UserError(f"--format=onnx has no way to compute a size of {symbol}.")
        factor = np.array([times], np.int64)
        return self.add("Mul", self._batch, factor, shape=(1,)) if times != 1 else self._batch

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        """Axes in another order; two in a row become one, or none."""
        permutation = tuple(permutation)
        if isinstance(x, np.ndarray):
            return np.transpose(x, permutation)
        if x.name in self._transposed:
            x, before = self._transposed[x.name]
            permutation = tuple(before[axis] for axis in permutation)
        if permutation == tuple(range(len(permutation))):
            return x
        shape = tuple(x.shape[axis] for axis in permutation)
        y = self.add("Transpose", x, shape=shape, perm=permutation)
        self._transposed[y.name] = x, permutation
        return y

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        """New axes of 1, at these places of the result."""
        if isinstance(x, np.ndarray):
            return np.expand_dims(x, tuple(axes))
        rest = iter(x.shape)
        shape = tuple(1 if i in axes else next(rest) for i in range(len(x.shape) + len(axes)))
        return self.add("Unsqueeze", x, np.array(axes, np.int64), shape=shape) if axes else x

    def stack(self, values: Sequence[Value], axis: int, shape: Shape) -> Value:
        """Values of one shape side by side on a new axis; `shape` is the result's."""
        each = (*shape[:axis], *shape[axis + 1 :])
        parts = [self.unsqueeze(self.full(x, each), [axis]) for x in values]
        if all(isinstance(x, np.ndarray) for x in parts):
            return np.concatenate(parts, axis)
        return self.add("Concat", *parts, shape=shape, axis=axis)


def is_known(shape: Shape) -> bool:
    """Whether a shape has no symbols."""
    return all(isinstance(n, (int, np.integer)) for n in shape)


def to_onnx(
    function: Callable[[jax.Array], dict[str, jax.Array]],
    image: jax.ShapeDtypeStruct,
    rules: dict[str, Rule],
    about: str,
) -> onnx.ModelProto:
    """The model of a function of one array, `image`, to named arrays.

    Args:
        function: of images.
        image: their shape, of which the first may be a symbol, and dtype.
        rules: of every primitive that may work on images.
        about: a sentence that goes into the model.

    Raises:
        UserError: a primitive, or a way to use one, that the rules do not have.
    """
    closed, results = jax.make_jaxpr(function, return_shape=True)(image)
    source = Tensor("image", image.shape)
    graph = Graph(source)
    values = _run(graph, rules, closed.jaxpr, closed.consts, [source])
    outputs = []
    # A dict's leaves come in the order of its sorted keys.
    for (name, result), value in zip(sorted(results.items()), values, strict=True):
        whole = graph.full(value, result.shape)
        last = whole.name if isinstance(whole, Tensor) else graph._constant(whole)
        graph.nodes.append(helper.make_node("Identity", [last], [name]))
        outputs.append(_info(name, result))
    nodes = _needed(graph.nodes, {x.name for x in outputs})
    read = {name for node in nodes for name in node.input}
    constants = [tensor for name, tensor in graph.constants.items() if name in read]
    model = helper.make_model(
        helper.make_graph(nodes, "predict", [_info("image", image)], outputs, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="emanet_jax",
        doc_string=about,
    )
    onnx.checker.check_model(model)
    return model


def _info(name: str, x: jax.ShapeDtypeStruct) -> onnx.ValueInfoProto:
    shape = ["batch" if export.is_symbolic_dim(n) else n for n in x.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), shape)


def _needed(nodes: Sequence[onnx.NodeProto], names: set[str]) -> list[onnx.NodeProto]:
    """The nodes that these names depend on."""
    kept = []
    for node in reversed(nodes):
        if names & set(node.output):
            kept.append(node)
            names |= set(node.input)
    return kept[::-1]


def _run(
    graph: Graph, rules: dict[str, Rule], jaxpr: Any, constants: Sequence[Any], inputs: list[Value]
) -> list[Value]:
    """Adds a jaxpr's primitives to the graph; returns its outputs."""
    known = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
    known |= zip(jaxpr.invars, inputs, strict=True)

    def read(atom: Any) -> Value:
        return np.asarray(atom.val) if hasattr(atom, "val") else known[atom]

    for eqn in jaxpr.eqns:
        name, values = eqn.primitive.name, [read(atom) for atom in eqn.invars]
        if name in _CALLS:
            called = next(eqn.params[key] for key in _CALLED if key in eqn.params)
            results = _run(graph, rules, *_opened(called), values)
        elif name == "scan":
            results = _unrolled(graph, rules, eqn, values)
        elif name not in ("broadcast_in_dim", "iota") and _is_constant(eqn, values):
            results = _computed(eqn, values)
        elif name not in rules:
            raise UserError(f"--format=onnx has no operators for JAX's primitive '{name}'.")
        else:
            results = rules[name](graph, eqn, *values)
        if isinstance(results, (Tensor, np.ndarray)):
            results = [results]
        known |= zip(eqn.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())


def _is_constant(eqn: Any, values: Sequence[Value]) -> bool:
    shapes = [variable.aval.shape for variable in (*eqn.invars, *eqn.outvars)]
    arrays = all(isinstance(x, np.ndarray) for x in values)
    return arrays and all(map(is_known, shapes)) and eqn.primitive.name != "dim_as_value"


def _computed(eqn: Any, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    pairs = zip(values, eqn.invars, strict=True)
    results = eqn.primitive.bind(
        *(np.broadcast_to(x, atom.aval.shape) for x, atom in pairs), **eqn.params
    )
    return [np.asarray(x) for x in (results if eqn.primitive.multiple_results else [results])]


def _unrolled(graph: Graph, rules: dict[str, Rule], eqn: Any, values: list[Value]) -> list[Value]:
    """A loop of known length, its body once for every turn."""
    length, constants, carried = (eqn.params[x] for x in ("length", "num_consts", "num_carry"))
    fixed, state = values[:constants], values[constants : constants + carried]
    inputs = values[constants + carried :]
    outputs: list[list[Value]] = [[] for _ in eqn.outvars[carried:]]
    turns = range(length)
    for turn in reversed(turns) if eqn.params["reverse"] else turns:
        slices = [_row(graph, x, turn) for x in inputs]
        body = _opened(eqn.params["jaxpr"])
        results = _run(graph, rules, *body, [*fixed, *state, *slices])
        state = results[:carried]
        for rows, row in zip(outputs, results[carried:], strict=True):
            rows.append(row)
    if eqn.params["reverse"]:
        outputs = [rows[::-1] for rows in outputs]
    stacked = [
        graph.stack(rows, 0, variable.aval.shape)
        for rows, variable in zip(outputs, eqn.outvars[carried:], strict=True)
    ]
    return [*state, *stacked]


def _row(graph: Graph, x: Value, index: int) -> Value:
    index = index if x.shape[0] != 1 else 0  # 1: the same for all
    if isinstance(x, np.ndarray):
        return np.asarray(x[index])
    return graph.add("Gather", x, np.array(index, np.int64), shape=x.shape[1:], axis=0)
