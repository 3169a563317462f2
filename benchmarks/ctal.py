"""CTAL's implementations side by side: time, memory, operations and rounding over a grid of cases.

    python -m benchmarks.ctal                 # minutes on a CPU: table, CSV, plot
    python -m benchmarks.ctal --quick         # a minute
    python -m benchmarks.ctal --points=72x96x3 --implementations=factorized,grouped_conv

A case is HxWxTASKS[xCHANNELS[xBATCH]] (128 channels and batch 1 where not given), random float32
features, `fusion="task_specific"`. Times are of the whole module with its value convolutions, the
same in all; "train" is forward and backward. Needs JAX, Flax and, for the plot, matplotlib.
"""

import argparse
import csv
import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import machine, seconds
from emanet_jax import parallel
from emanet_jax.models.affinity import IMPLEMENTATIONS
from emanet_jax.models.ctal import CrossTaskAffinity, choose_implementation

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
    options = parallel.compiler_options(parallel.make_mesh())
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


def skip(row: Row, kind: str, why: str) -> None:
    """Says what is left out."""
    print(f"{row.implementation:12} {row.h}x{row.w}x{row.tasks}: {kind} left out, {why}.")


HEADER = (
    f"{'':12} {'case':>16} {'pixels':>7} {'forward':>10} {'train':>10} {'temporaries, MiB':>17} "
    f"{'GFLOP':>13} {'error, value':>12} {'gradient':>9}  auto"
)


def line(row: Row) -> str:
    """A row for people."""
    case = "x".join(map(str, row[1:6]))
    times = " ".join(f"{1e3 * x:7.1f} ms" for x in (row.forward_s, row.train_s))
    temporaries = f"{row.forward_temp_mib:8.1f} {row.train_temp_mib:8.1f}"
    operations = f"{row.forward_gflop:6.2f} {row.train_gflop:6.2f}"
    errors = f"{row.value_error:12.1e} {row.gradient_error:9.1e}"
    mark = "  <-" if row.auto == row.implementation else ""
    return (
        f"{row.implementation:12} {case:>16} {row.pixels:7} {times} {temporaries} {operations} "
        f"{errors}{mark}"
    ).replace("nan", "  -")


def exponent(rows: Sequence[Row], field: str) -> float:
    """The b of the least-squares fit field = a * pixels^b, NaN for fewer than two measured rows."""
    points = [(row.pixels, getattr(row, field)) for row in rows]
    points = [(x, y) for x, y in points if math.isfinite(y) and y > 0]
    if len({x for x, _ in points}) < 2:
        return math.nan
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def series(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of an implementation that differ in pixels only: 3 tasks, 128 channels, batch 1."""
    return [row for row in rows if row[0] == name and row[3:6] == (3, 128, 1)]


def summary(rows: Sequence[Row]) -> str:
    """Growth with pixels, and what "auto" loses to the best implementation."""
    text = ["", "growth with pixels P (3 tasks, 128 channels, batch 1, from 192 pixels on):"]
    for name in IMPLEMENTATIONS:
        grown = [row for row in series(rows, name) if row.pixels >= 192]
        fits = {k: exponent(grown, k) for k in ("forward_s", "train_s", "train_temp_mib")}
        text.append(f"  {name:12} " + ", ".join(f"{k} ~ P^{x:.2f}" for k, x in fits.items()))
    text.append('train time of "auto" over the best of the others:')
    for case in dict.fromkeys(row[1:6] for row in rows):
        times = {r.implementation: r.train_s for r in rows if r[1:6] == case}
        times = {name: x for name, x in times.items() if math.isfinite(x)}
        auto = next(r.auto for r in rows if r[1:6] == case)
        if auto in times and len(times) > 1:
            best = min(times, key=times.get)
            ratio = times[auto] / times[best]
            text.append(f"  {'x'.join(map(str, case)):>16} {auto:12} {ratio:.2f} (best: {best})")
    return "\n".join(text).replace("P^nan", "P^-")


def write_csv(rows: Sequence[Row], path: pathlib.Path) -> None:
    """One line a row, empty where nothing was measured."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        for row in rows:
            writer.writerow(["" if x != x else x for x in row])  # only NaN differs from itself


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Time and temporaries of the forward and backward pass over pixels, both logarithmic."""
    try:
        import matplotlib
    except ImportError:
        print(f"matplotlib is not installed: no plot at {path}.")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    quantities = {"s": "seconds", "temp_mib": "temporaries, MiB"}
    for axis, (field, label) in zip(axes, quantities.items(), strict=True):
        for number, name in enumerate(IMPLEMENTATIONS):
            for kind, style in (("train", "o-"), ("forward", "o:")):
                part = [
                    r for r in series(rows, name) if math.isfinite(getattr(r, f"{kind}_{field}"))
                ]
                part.sort(key=lambda row: row.pixels)
                axis.loglog(
                    [row.pixels for row in part],
                    [getattr(row, f"{kind}_{field}") for row in part],
                    style,
                    color=f"C{number}",
                    markersize=4,
                    label=f"{name}, {'forward + backward' if kind == 'train' else kind}",
                )
        axis.set(xlabel="pixels P", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.suptitle(f"CTAL: 3 tasks, 128 channels, batch 1, float32 ({machine()})", fontsize=9)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


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
