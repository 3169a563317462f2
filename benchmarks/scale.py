"""A training step of EMA-Net by the size of images, and by the number of tasks; fits and picture.

    python -m benchmarks.scale                       # an hour on 2 cores, over 12 GiB
    python -m benchmarks.scale --sizes=64x64,64x128 --tasks=1,2 --size=64x64 --backbone=hrnet_tiny
    python -m benchmarks.scale --memory_gib=0        # memory and operations only: no step is run

Two series, which share what they have in common: sizes with --count tasks, and tasks at --size. The
tasks are the first of all that data sets have, each once; the batch is one image. The columns are
those of `benchmarks.train_step`. The folder --out gets scale.csv, anew after every program, and
scale.png.
"""

import argparse
import pathlib
from collections.abc import Sequence

from emanet_jax import menu

SIZES = "128x256,192x384,256x512,384x768,512x1024,768x1536,1024x2048"


def _size(text: str) -> tuple[int, int]:
    h, w = map(int, text.split("x"))
    return h, w


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the flags, measures, prints the table and the fits, and writes the CSV and picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=[*menu.BACKBONES], default="hrnet_w18")
    parser.add_argument("--sizes", default=SIZES, help="height x width of the images")
    parser.add_argument("--count", type=int, default=2, help="tasks at these sizes")
    parser.add_argument("--tasks", default="1,2,3,4,5,6", help="how many tasks, at --size")
    parser.add_argument("--size", type=_size, default=(128, 256), help="where the tasks vary")
    parser.add_argument("--seconds", type=float, default=10.0, help="to repeat each step for")
    parser.add_argument(
        "--memory_gib", type=float, default=16.0, help="what holds more is compiled and not run"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/scale"))
    args = parser.parse_args(argv)
    try:
        sizes = [_size(text) for text in args.sizes.split(",")]
        counts = [int(text) for text in args.tasks.split(",")]
    except ValueError as error:
        parser.error(f"--sizes=64x64,64x128 and --tasks=1,2 are written like this ({error})")
    # Imported here, so that flags are checked and --help answers before the libraries load.
    import jax

    from benchmarks import common, scale_series

    most = len(scale_series.all_tasks())
    if not all(1 <= count <= most for count in [*counts, args.count]):
        parser.error(f"--tasks and --count must be numbers from 1 to {most}")

    rows: list[scale_series.Row] = []
    title = f"EMA-Net on {args.backbone}, batch 1, float32 ({common.machine()})"
    print(title, scale_series.HEADER, sep="\n", flush=True)
    for size, count in scale_series.cases(sizes, args.count, counts, args.size):
        row = scale_series.measure(size, count, args.backbone, args.seconds, 1024 * args.memory_gib)
        rows.append(row)
        print(scale_series.line(row), flush=True)
        common.write_csv(rows, args.out / "scale.csv")
        jax.clear_caches()  # or all programs stay in memory: gigabytes
    both = scale_series.series(rows, args.count, args.size)
    print(scale_series.summary(both))
    scale_series.plot(both, title, args.out / "scale.png")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
