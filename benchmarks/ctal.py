"""CTAL's implementations side by side: time, memory, operations and rounding over a grid of cases.

    python -m benchmarks.ctal                 # minutes on a CPU: table, CSV, plot
    python -m benchmarks.ctal --quick         # a minute
    python -m benchmarks.ctal --points=72x96x3 --implementations=factorized,grouped_conv

A case is HxWxTASKS[xCHANNELS[xBATCH]] (128 channels and batch 1 where not given), random float32
features, `fusion="task_specific"`. Times are of the whole module with its value convolutions, the
same in all; "train" is forward and backward. Needs JAX, Flax and, for the plot, matplotlib.
"""

import argparse
import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ctal_report import HEADER, Row, line, plot, skip, summary, write_csv
from benchmarks.timing import machine, seconds
from emanet_jax import cpu
from emanet_jax.models.affinity import IMPLEMENTATIONS
from emanet_jax.models.ctal import CrossTaskAffinity, choose_implementation
from emanet_jax.training import sharding

POINTS = (
    "4x6x3 8x8x3 12x16x3 16x16x3 16x16x5 24x32x2 24x32x3x64 24x32x3x256 16x24x3x128x2 "
    "32x32x5 24x32x3 36x48x3 72x96x3 144x192x3"
)
QUICK = "4x6x3 8x8x3 16x16x5 24x32x3 72x96x3"


class Case(NamedTuple):
    """A point of the grid."""

    h: int
    w: int
    tasks: int
    channels: int = 128
    batch: int = 1

    @classmethod
    def parse(cls, text: str) -> "Case":
        """From "72x96x3" or "72x96x3x128x2"."""
        try:
            case = cls(*(int(part) for part in text.split("x")))
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(
                f"'{text}' is no case; write HxWxTASKS[xCHANNELS[xBATCH]] as 72x96x3."
            ) from error
        return case

    @property
    def pixels(self) -> int:
        """P, on the features' grid."""
        return self.h * self.w

    def features(self) -> dict[str, np.ndarray]:
        """Random float64 features of every task."""
        r = np.random.default_rng(0)
        shape = (self.batch, self.h, self.w, self.channels)
        return {f"task{k}": r.standard_normal(shape) for k in range(self.tasks)}

    def quadratic_bytes(self) -> int:
        """Float32 affinities of every task and mixed affinities of every fusion."""
        return 4 * self.batch * 2 * self.tasks * self.pixels**2


@functools.cache
def functions(implementation: str) -> dict[str, Callable]:
    """The forward pass, and value and gradients to parameters and features, of the module."""
    module = CrossTaskAffinity(implementation=implementation, gamma=1.0)

    def loss(params: Any, features: dict) -> tuple[jax.Array, dict]:
        refined = module.apply(params, features)
        return sum(jnp.vdot(x, x) for x in refined.values()), refined

    return {"forward": module.apply, "train": jax.grad(loss, (0, 1), has_aux=True)}


def operations(run: Callable, *args: Any) -> float:
    """XLA's count of floating-point operations, in 1e9.

    XLA counts a loop's body once, so the loops are unrolled for it; nothing is compiled.
    """

    def unrolled(*args: Any) -> Any:
        with jax.disable_jit():
            return run(*args)

    return jax.jit(unrolled).lower(*args).cost_analysis()["flops"] / 1e9


def parameters(case: Case) -> Any:
    """Float64 parameters of order 1 / sqrt(fan-in)."""
    module = CrossTaskAffinity(implementation="factorized")
    shapes = jax.eval_shape(module.init, jax.random.key(0), case.features())
    r = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: r.standard_normal(x.shape) / math.sqrt(math.prod(x.shape[:-1]) or 1), shapes
    )


def relative_errors(tree: Any, reference: Any) -> list[float]:
    """|x - y| / |y| of every leaf."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(reference), strict=True)
    return [float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in pairs]


def measure(case: Case, names: Iterable[str], budget: int, grouped_pixels: int) -> list[Row]:
    """All implementations on one case."""
    options = cpu.compiler_options(sharding.make_mesh())
    params, features = parameters(case), case.features()
    auto, _ = choose_implementation(
        case.batch, case.tasks, case.channels, case.pixels, case.tasks, 4
    )
    with jax.enable_x64(True):  # the tests hold all implementations to the definition there
        exact = jax.jit(functions("factorized")["train"], compiler_options=options)
        slopes, values = jax.tree.map(np.asarray, exact(params, features))
    single = jax.tree.map(jnp.float32, (params, features))
    rows = []
    for name in names:
        row = Row(name, *case, pixels=case.pixels, auto=auto)
        for kind, run in functions(name).items():
            copies = 2 if kind == "forward" else 4  # of the P x P arrays: shifted ones, slopes
            if name != "factorized" and copies * case.quadratic_bytes() > budget:
                skip(
                    row, kind, f"{copies * case.quadratic_bytes() / 2**30:.1f} GiB of P x P arrays"
                )
                continue
            if (name, kind) == ("grouped_conv", "train") and case.pixels > grouped_pixels:
                skip(row, kind, f"more than {grouped_pixels} pixels")
                continue
            compiled = jax.jit(run, compiler_options=options).lower(*single).compile()
            temporaries = compiled.memory_analysis().temp_size_in_bytes
            row = row._replace(
                **{
                    f"{kind}_s": seconds(compiled, *single),
                    f"{kind}_temp_mib": temporaries / 2**20,
                    f"{kind}_gflop": operations(run, *single),
                }
            )
            result = jax.tree.map(np.asarray, compiled(*single))
            if kind == "forward":
                row = row._replace(value_error=max(relative_errors(result, values)))
            else:
                row = row._replace(gradient_error=max(relative_errors(result[0], slopes)))
        rows.append(row)
        print(line(row), flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Parses the flags, measures, and writes the CSV and the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=lambda text: text.replace(",", " "), default=POINTS)
    parser.add_argument("--quick", action="store_true", help=f"only the cases {QUICK}")
    parser.add_argument(
        "--implementations",
        type=lambda text: text.split(","),
        default=list(IMPLEMENTATIONS),
        help="names, separated by commas",
    )
    parser.add_argument(
        "--budget_gib", type=float, default=4.0, help="leave out what takes more in P x P arrays"
    )
    parser.add_argument(
        "--grouped_backward_pixels",
        type=int,
        default=256,
        help="largest map for the backward pass of grouped_conv, which takes minutes above",
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmark_ctal"))
    args = parser.parse_args(argv)
    if unknown := set(args.implementations) - set(IMPLEMENTATIONS):
        parser.error(f"--implementations: {', '.join(unknown)}; choose from {[*IMPLEMENTATIONS]}.")
    try:
        cases = [Case.parse(text) for text in (QUICK if args.quick else args.points).split()]
    except argparse.ArgumentTypeError as error:
        parser.error(f"--points: {error}")

    args.out.mkdir(parents=True, exist_ok=True)
    print(machine(), HEADER, sep="\n")
    rows = []
    for case in cases:
        rows += measure(
            case, args.implementations, int(args.budget_gib * 2**30), args.grouped_backward_pixels
        )
        write_csv(rows, args.out / "ctal.csv")
    print(summary(rows))
    plot(rows, args.out / "ctal.png")
    print(f"written: {args.out}/ctal.csv, ctal.png")
    return rows


if __name__ == "__main__":
    main()
