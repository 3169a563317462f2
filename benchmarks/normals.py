"""How well normals from depth agree with exact ones on synthetic rooms, and how fast they come.

    python -m benchmarks.normals                     # 480 x 640, 16 rooms, a minute
    python -m benchmarks.normals --rooms=4 --radii=3,5,7

Depth is exact, or as a Kinect records it: gaps, jitter between neighbours, noise and rounding of
the disparity. "Inner" pixels are further than a window from borders between planes. The rate counts
the processor's time, which is that of one core.
"""

import argparse
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from benchmarks.common import machine
from emanet_jax import camera
from emanet_jax.data.normals import DISPARITY_STEP, normals_from_depth
from emanet_jax.synthetic import render_room

LIMITS = (11.25, 22.5, 30.0)  # degrees


class Room(NamedTuple):
    """Exact ground truth, and where a recording of it has depth."""

    depth: np.ndarray  # (h, w) metres
    normals: np.ndarray  # (h, w, 3)
    measured: np.ndarray  # (h, w) bool


def make_room(index: int, image_size: tuple[int, int]) -> Room:
    """Synthetic room number `index`."""
    exact = render_room(0, index, image_size, clean=True)
    recorded = render_room(0, index, image_size)
    return Room(exact["depth"][..., 0], exact["normals"], recorded["depth"][..., 0] > 0)


def kinect(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Depth (h, w) in metres with a Kinect's noise, which grows with the square of the distance.

    Pixels see up to a pixel beside themselves (deviation 1/2), and the disparity, in steps of
    1/351.3 per metre, errs by half a step (deviation) before it is rounded (Barron and Malik,
    "Intrinsic Scene Properties from a Single RGB-D Image", 2013, with the larger disparity noise of
    Khoshelham and Elberink, 2012).
    """
    positions = np.indices(depth.shape) + rng.normal(0, 1 / 2, (2, *depth.shape))
    seen = ndimage.map_coordinates(depth.astype(np.float64), positions, order=1, mode="nearest")
    steps = np.rint(1 / (seen * DISPARITY_STEP) + rng.normal(0, 1 / 2, depth.shape))
    return 1 / (np.maximum(steps, 1) * DISPARITY_STEP)


def inner(room: Room, distance: int) -> np.ndarray:
    """Pixels (h, w) bool further than `distance` from any other plane."""
    points = camera.back_project(room.depth.astype(np.float64))
    offset = (points * room.normals).sum(-1, keepdims=True)
    planes = np.concatenate([room.normals, offset], -1)
    window = (2 * distance + 1, 2 * distance + 1, 1)
    spread = ndimage.maximum_filter(planes, window) - ndimage.minimum_filter(planes, window)
    return (spread < 1e-3).all(-1)


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees between unit vectors (..., 3)."""
    return np.degrees(np.arccos(np.clip((first * second).sum(-1, dtype=np.float64), -1, 1)))


def row(label: str, errors: np.ndarray, share: float) -> str:
    """A line of the table; errors in degrees, `share` of the measured pixels."""
    within = "".join(f"{100 * np.mean(errors < limit):9.1f}" for limit in LIMITS)
    return f"{label:26}{errors.mean():8.2f}{np.median(errors):8.2f}{within}{100 * share:10.1f}"


def run(image_size: tuple[int, int], count: int, radii: Sequence[int]) -> None:
    """Prints the table."""
    print(f"{machine()}; {count} rooms, {image_size[0]} x {image_size[1]}; angles in degrees")
    within = "".join(f"{f'<{limit:g} %':>9}" for limit in LIMITS)
    print(f"{'':26}{'mean':>8}{'median':>8}{within}{'pixels %':>10}")
    rooms = [make_room(index, image_size) for index in range(count)]
    far = [inner(room, round(image_size[1] / 100)) for room in rooms]
    for radius in radii:
        seconds = []
        for name in ("exact", "kinect"):
            errors, flat, measured = [], [], 0
            for index, room in enumerate(rooms):
                depth, known = room.depth, np.ones_like(room.measured)
                if name == "kinect":
                    depth, known = kinect(np.random.default_rng(index), depth), room.measured
                start = time.process_time()
                normals = normals_from_depth(depth, known, radius=radius)
                seconds.append(time.process_time() - start)
                valid = normals.any(-1)
                degrees = angles(normals, room.normals)
                errors.append(degrees[valid])
                flat.append(degrees[valid & far[index]])
                measured += np.count_nonzero(known)
            where = f"radius {radius or 'usual'}, {name}"
            for pixels, values in (("all", errors), ("inner", flat)):
                values = np.concatenate(values)
                print(row(f"{where}, {pixels}", values, len(values) / measured))
        print(
            f"radius {radius or 'usual'}: {1 / np.median(seconds):.1f} images/s on one core",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the flags and runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image_size", default="480,640", help="H,W")
    parser.add_argument("--rooms", type=int, default=16, help="how many")
    parser.add_argument("--radii", default="0", help="of the windows, comma-separated; 0: usual")
    args = parser.parse_args(argv)
    h, w = map(int, args.image_size.split(","))
    run((h, w), args.rooms, [int(radius) for radius in args.radii.split(",")])


if __name__ == "__main__":
    main()
