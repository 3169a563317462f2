"""Images a second that the input pipeline gives, and how long a training step would wait for them.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --layouts=pascal_context --threads=1,4,8 --step_ms=250

For every layout of data it builds records like those of the real data set (the same fields, types,
sizes and compression, with synthetic rooms in them) in a temporary folder, reads and augments them
as training does, and prints a line for every number of threads, with and without config.data.cache.
The share of waiting is measured with a step that only sleeps, as the host does while an accelerator
works.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any


def main(argv: Sequence[str] | None = None) -> list[Any]:
    """Parses the flags, measures and prints; returns the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layouts", help="names of layouts; all by default")
    parser.add_argument("--threads", default="1,2,4", help="numbers of threads, 0: none of its own")
    parser.add_argument("--examples", type=int, default=64, help="of every layout, rendered first")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--prefetch", type=int, default=4, help="batches that are read ahead")
    parser.add_argument("--seconds", type=float, default=5.0, help="of every measurement")
    parser.add_argument("--step_ms", type=float, default=100.0, help="a training step's time")
    args = parser.parse_args(argv)
    try:
        args.threads = [int(part) for part in args.threads.split(",")]
    except ValueError:
        parser.error(f"argument --threads: '{args.threads}' are no numbers such as 1,2,4.")
    # Imported here, so that flags are checked and --help answers before the libraries load.
    from benchmarks.common import machine
    from benchmarks.pipeline_speed import LAYOUTS, measure

    names = args.layouts.split(",") if args.layouts else [*LAYOUTS]
    if not set(names) <= set(LAYOUTS):
        parser.error(f"argument --layouts: '{args.layouts}'; known: {', '.join(LAYOUTS)}.")

    print(f"{machine()}; batches of {args.batch_size}, {args.examples} examples of each layout")
    titles = f"{'layout':16}{'batch of':>12}{'cache':>7}{'threads':>9}{'images/s':>10}{'CPU ms':>8}"
    print(f"{titles}{f'waiting at {args.step_ms:g} ms a step':>30}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for row in measure(name, args, pathlib.Path(folder)):
                size = "x".join(map(str, LAYOUTS[name].image_size))
                print(
                    f"{name:16}{size:>12}{'yes' if row.cache else 'no':>7}{row.threads:>9}"
                    f"{row.images_per_second:>10.0f}{row.cpu_ms:>8.1f}{100 * row.waiting:>28.1f} %",
                    flush=True,
                )
                rows.append(row)
    return rows


if __name__ == "__main__":
    main()
