"""What CTAL's implementations cost on a case, and the table and picture of `benchmarks.ctal`."""

import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from emanet_jax import cpu
from emanet_jax.models.affinity import IMPLEMENTATIONS
from emanet_jax.models.ctal import CrossTaskAffinity, choose_implementation
from emanet_jax.training import sharding


class Case(NamedTuple):
    """A point of the grid."""

    h: int
    w: int
    tasks: int
    channels: int = 128
    batch: int = 1

    def features(self) -> dict[str, np.ndarray]:
        """Random float64 features of every task."""
        r = np.random.default_rng(0)
        shape = (self.batch, self.h, self.w, self.channels)
        return {f"task{k}": r.standard_normal(shape) for k in range(self.tasks)}

    def quadratic_gib(self) -> float:
        """GiB of the float32 affinities of every task and mixed affinities of every fusion."""
        return 4 * self.batch * 2 * self.tasks * (self.h * self.w) ** 2 / 2**30


class Row(NamedTuple):
    """A line of the table and the CSV; NaN for what was not measured."""

    implementation: str
    h: int
    w: int
    tasks: int
    channels: int
    batch: int
    pixels: int
    auto: str
    forward_s: float = math.nan
    train_s: float = math.nan
    forward_temp_mib: float = math.nan
    train_temp_mib: float = math.nan
    forward_gflop: float = math.nan
    train_gflop: float = math.nan
    value_error: float = math.nan
    gradient_error: float = math.nan


HEADER = (
    f"{'':12} {'case':>16} {'forward':>10} {'train':>10} {'temporaries, MiB':>17} "
    f"{'GFLOP':>13} {'error, value':>12} {'gradient':>9}  auto"
)


def line(row: Row) -> str:
    """The row as it is printed under HEADER; "-" for what was not measured."""
    return (
        f"{row.implementation:12} {'x'.join(map(str, row[1:6])):>16} "
        f"{1e3 * row.forward_s:7.1f} ms {1e3 * row.train_s:7.1f} ms "
        f"{row.forward_temp_mib:8.1f} {row.train_temp_mib:8.1f} "
        f"{row.forward_gflop:6.2f} {row.train_gflop:6.2f} "
        f"{row.value_error:12.1e} {row.gradient_error:9.1e}"
        f"{'  <-' if row.auto == row.implementation else ''}"
    ).replace("nan", "  -")


@functools.cache
def functions(implementation: str) -> dict[str, Callable]:
    """The forward pass, and value and gradients to parameters and features, of the module."""
    module = CrossTaskAffinity(implementation=implementation, gamma=1.0)

    def loss(params: Any, features: dict) -> tuple[jax.Array, dict]:
        refined = module.apply(params, features)
        return sum(jnp.vdot(x, x) for x in refined.values()), refined

    return {"forward": module.apply, "train": jax.grad(loss, (0, 1), has_aux=True)}


def parameters(case: Case) -> Any:
    """Float64 parameters of order 1 / sqrt(fan-in)."""
    module = CrossTaskAffinity(implementation="factorized")
    shapes = jax.eval_shape(module.init, jax.random.key(0), case.features())
    r = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: r.standard_normal(x.shape) / math.sqrt(math.prod(x.shape[:-1]) or 1), shapes
    )


def largest_error(tree: Any, reference: Any) -> float:
    """The largest |x - y| / |y| of the leaves."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(reference), strict=True)
    return max(float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in pairs)


def measure(case: Case, names: Iterable[str], budget_gib: float, grouped_pixels: int) -> list[Row]:
    """All implementations on one case; the arguments are the flags of the command."""
    options = cpu.compiler_options(sharding.make_mesh())
    params, features = parameters(case), case.features()
    pixels = case.h * case.w
    auto, _ = choose_implementation(case.batch, case.tasks, case.channels, pixels, case.tasks, 4)
    with jax.enable_x64(True):  # the tests hold all implementations to the definition there
        exact = jax.jit(functions("factorized")["train"], compiler_options=options)
        gradients, values = jax.tree.map(np.asarray, exact(params, features))
    single = jax.tree.map(jnp.float32, (params, features))
    rows = []
    for name in names:
        row = Row(name, *case, pixels=pixels, auto=auto)
        for kind, run in functions(name).items():
            # Copies of the P x P arrays: shifted ones, cotangents.
            gib = (2 if kind == "forward" else 4) * case.quadratic_gib()
            if name != "factorized" and gib > budget_gib:
                print(f"{name:12} {kind} left out: {gib:.1f} GiB of P x P arrays.")
                continue
            if (name, kind) == ("grouped_conv", "train") and pixels > grouped_pixels:
                print(f"{name:12} {kind} left out: more than {grouped_pixels} pixels.")
                continue
            compiled = jax.jit(run, compiler_options=options).lower(*single).compile()
            result = jax.tree.map(np.asarray, compiled(*single))
            if kind == "forward":
                row = row._replace(value_error=largest_error(result, values))
            else:
                row = row._replace(gradient_error=largest_error(result[0], gradients))
            measured = {
                f"{kind}_s": common.wall_and_cpu(compiled, *single)[0],
                f"{kind}_temp_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
                f"{kind}_gflop": common.operations(run, *single) / 1e9,
            }
            row = row._replace(**measured)
        rows.append(row)
        print(line(row), flush=True)
    return rows


def series(rows: Sequence[Row], name: str) -> list[Row]:
    """An implementation's rows that differ in pixels only: 3 tasks, 128 channels, batch 1."""
    chosen = [row for row in rows if row[0] == name and row[3:6] == (3, 128, 1)]
    return sorted(chosen, key=lambda row: row.pixels)


def summary(rows: Sequence[Row]) -> str:
    """Growth with pixels, and what "auto" loses to the best implementation."""
    text = ["growth with pixels P (3 tasks, 128 channels, batch 1, from 192 pixels on):"]
    for name in IMPLEMENTATIONS:
        grown = [row for row in series(rows, name) if row.pixels >= 192]
        found = [
            f"{field} ~ P^{common.exponent((r.pixels, getattr(r, field)) for r in grown):.2f}"
            for field in ("forward_s", "train_s", "train_temp_mib")
        ]
        text.append(f"  {name:12} {', '.join(found)}")
    text.append('train time of "auto" over the best of the others:')
    for case in dict.fromkeys(row[1:6] for row in rows):
        times = {r.implementation: r.train_s for r in rows if r[1:6] == case and r.train_s > 0}
        auto = next(r.auto for r in rows if r[1:6] == case)
        if auto in times and len(times) > 1:
            ratio = times[auto] / min(times.values())
            text.append(f"  {'x'.join(map(str, case)):>16} {auto:12} {ratio:.2f}")
    return "\n".join(text).replace("nan", "-")


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Time and temporaries of the forward and backward pass over pixels, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    labels = {"s": "seconds", "temp_mib": "temporaries, MiB"}
    for axis, (field, label) in zip(axes, labels.items(), strict=True):
        for number, name in enumerate(IMPLEMENTATIONS):
            for kind, style in (("train", "o-"), ("forward", "o:")):
                shown = series(rows, name)
                axis.loglog(
                    [row.pixels for row in shown],
                    [getattr(row, f"{kind}_{field}") for row in shown],
                    style,
                    color=f"C{number}",
                    markersize=4,
                    label=f"{name}, {'forward + backward' if kind == 'train' else kind}",
                )
        axis.set(xlabel="pixels P", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    machine = common.machine()
    figure.suptitle(f"CTAL: 3 tasks, 128 channels, batch 1, float32 ({machine})", fontsize=9)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
