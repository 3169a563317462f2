"""CTAL's implementations side by side: time, memory, operations and rounding over a grid of cases.

    python -m benchmarks.ctal                 # minutes on a CPU: table, CSV, plot
    python -m benchmarks.ctal --points=72x96x3 --implementations=factorized,grouped_conv

A case is HxWxTASKS[xCHANNELS[xBATCH]] (128 channels and batch 1 where not given), random float32
features, `fusion="task_specific"`. Times are of the whole module with its value convolutions, the
same in all; "train" is forward and backward. "<-" marks what implementation="auto" takes.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

POINTS = (
    "4x6x3 8x8x3 12x16x3 16x16x3 16x16x5 24x32x2 24x32x3x64 24x32x3x256 16x24x3x128x2 "
    "32x32x5 24x32x3 36x48x3 72x96x3 144x192x3"
)


def _case(text: str) -> tuple[int, ...]:
    size = tuple(int(part) for part in text.split("x"))
    if not 3 <= len(size) <= 5:
        raise ValueError(text)
    return size


def main(argv: Sequence[str] | None = None) -> list[Any]:
    """Parses the flags, measures, and writes the CSV and the plot; returns its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", default=POINTS.replace(" ", ","), help="cases")
    parser.add_argument("--implementations", help="names; all by default")
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
    try:
        sizes = [_case(text) for text in args.points.split(",")]
    except ValueError:
        parser.error(
            f"--points: '{args.points}'; write a case HxWxTASKS[xCHANNELS[xBATCH]] as 72x96x3."
        )
    # Imported here, so that flags are checked and --help answers before the libraries load.
    from benchmarks import common, ctal_costs
    from emanet_jax.models.affinity import IMPLEMENTATIONS

    names = args.implementations.split(",") if args.implementations else [*IMPLEMENTATIONS]
    if unknown := set(names) - set(IMPLEMENTATIONS):
        parser.error(f"--implementations: {', '.join(unknown)}; choose from {[*IMPLEMENTATIONS]}.")

    print(common.machine(), ctal_costs.HEADER, sep="\n")
    rows: list[ctal_costs.Row] = []
    for size in sizes:
        case = ctal_costs.Case(*size)
        rows += ctal_costs.measure(case, names, args.budget_gib, args.grouped_backward_pixels)
        common.write_csv(rows, args.out / "ctal.csv")
    print(ctal_costs.summary(rows))
    ctal_costs.plot(rows, args.out / "ctal.png")
    print(f"written: {args.out}/ctal.csv, ctal.png")
    return rows


if __name__ == "__main__":
    main()
