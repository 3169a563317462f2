"""Synthetic rooms: procedural indoor scenes with exact depth, normals and classes."""

import numpy as np

from emanet_jax import camera
from emanet_jax.synthetic import sensor
from emanet_jax.synthetic.render import cast, radiance
from emanet_jax.synthetic.scene import CLASS, UNLABELLED, draw_room


def render_room(
    seed: int, index: int, image_size: tuple[int, int], *, clean: bool = False
) -> dict[str, np.ndarray]:
    """Renders one room; a pure function of its arguments.

    The same room is seen at every size; only the gaps and the noise of the recording depend on it.

    Args:
        seed: The data set's seed, at least 0.
        index: The room's number within the data set, at least 0.
        image_size: (h, w) in pixels.
        clean: Leave out gaps in depth and normals and unlabelled borders.

    Returns:
        image (h, w, 3) uint8; semseg (h, w, 1) uint8, 255 = unlabelled; depth (h, w, 1) float32,
        metres along z, 0 = invalid; normals (h, w, 3) float32, unit vectors in the camera frame
        (x right, y down, z forward) that point to the camera, zero = invalid.
    """
    scene_rng, sensor_rng = (np.random.default_rng((seed, index, stage)) for stage in range(2))
    room = draw_room(scene_rng)
    hits = cast(room, image_size)
    image = sensor.photograph(sensor_rng, radiance(room, hits))
    labels, depth = room.boxes.labels[hits.box], hits.depth
    normals = np.einsum("ck,khw->hwc", room.view, hits.normals)
    if not clean:
        shiny = hits.glass | (labels == CLASS["tv"])
        focal = camera.intrinsics(image_size).fx
        missing = sensor.invalid_depth(sensor_rng, depth, hits.facing, shiny, focal)
        instances = 256 * room.boxes.pieces[hits.box] + labels
        labels = np.where(sensor.unlabelled(sensor_rng, instances), UNLABELLED, labels)
        normals = np.where((missing | sensor.jumps(depth))[..., None], 0, normals)
        depth = np.where(missing, 0, depth)
    return {
        "image": image,
        "semseg": labels[..., None].astype(np.uint8),
        "depth": depth[..., None].astype(np.float32),
        "normals": normals.astype(np.float32),
    }
