"""One picture of a synthetic room with its labels: draw the room, cast, shade, record."""

import numpy as np

from emanet_jax import camera
from emanet_jax.synthetic import raycast, sensor, shading
from emanet_jax.synthetic.layout import UNLABELLED
from emanet_jax.synthetic.parts import CLASS
from emanet_jax.synthetic.scene import draw_room


def render_room(
    seed: int, index: int, image_size: tuple[int, int], *, clean: bool = False
) -> dict[str, np.ndarray]:
    """Renders one room; a pure function of its arguments.

    The same room is seen at every size; only the gaps and the noise of the recording depend on it.

    Args:
        seed: Of the data set, at least 0.
        index: Of the room within the data set, at least 0.
        image_size: (h, w) in pixels.
        clean: Leave out gaps in depth and normals and unlabelled borders.

    Returns:
        image (h, w, 3) uint8; semseg (h, w, 1) uint8, 255 = unlabelled; depth (h, w, 1) float32,
        metres along z, 0 = invalid; normals (h, w, 3) float32, unit vectors in the camera frame
        (x right, y down, z forward) that point to the camera, zero = invalid.
    """
    scene_rng, sensor_rng = (np.random.default_rng((seed, index, part)) for part in range(2))
    room = draw_room(scene_rng)
    seen = raycast.cast(raycast.frames(room), image_size)

    boxes = room.boxes

    labels = boxes.labels[seen.box]
    panes = np.array([pattern == "window" for pattern in boxes.patterns])
    glass = panes[seen.box] & (seen.axis == 2)
    light = np.where(glass[..., None], np.float32(1.08 * room.exposure), shading.shade(room, seen))
    image = sensor.photograph(sensor_rng, shading.albedo(room, seen) * light ** (1 / 2.2))
    depth, normals = seen.depth, seen.normals
    if not clean:
        sight = seen.points / np.linalg.norm(seen.points, axis=-1, keepdims=True)
        facing = -np.einsum("hwk,hwk->hw", normals, sight)
        focal = camera.intrinsics(image_size).fx
        shiny = glass | (labels == CLASS["tv"])
        missing = sensor.invalid_depth(sensor_rng, depth, facing, shiny, focal)
        uncertain = missing | sensor.jumps(depth)
        instances = (boxes.items * 256 + boxes.labels)[seen.box]
        labels = np.where(sensor.unlabelled(sensor_rng, instances), UNLABELLED, labels)
        depth = np.where(missing, 0, depth)
        normals = np.where(uncertain[..., None], 0, normals)
    return {
        "image": image,
        "semseg": labels[..., None].astype(np.uint8),
        "depth": depth[..., None].astype(np.float32),
        "normals": normals.astype(np.float32),
    }
