"""The device mesh, and how state and batches lie on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from emanet_jax.errors import UserError

Batch = Mapping[str, Any]  # {"image": (b, h, w, 3), "labels": {task: (b, h, w, k)}, "mask": (b,)}


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """What XLA should do differently on this kind of device, for `jax.jit(compiler_options=...)`.

    On CPUs: leave convolutions to XLA itself. The kernel gradients of the library that it calls by
    default take 2 to 6 times as long, and EMA-Net's training step 3 times the memory.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


def make_mesh(rows: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh ("data", "rows") over all devices: `rows` of them share an image, the rest the batch.

    Raises:
        UserError: the number of devices is no multiple of `rows`.
    """
    devices = jax.devices() if devices is None else devices
    if rows < 1 or len(devices) % rows:
        raise UserError(
            f"config.mesh.rows is {rows}; it must divide the number of devices, {len(devices)}."
        )
    shape = (len(devices) // rows, rows)
    return jax.make_mesh(shape, ("data", "rows"), (AxisType.Auto,) * 2, devices=devices)


def check_batch_size(name: str, batch_size: int, mesh: Mesh, processes: int = 1) -> None:
    """Raises UserError unless every device and process gets the same number of images."""
    parts = max(mesh.shape["data"], processes)
    if batch_size < 1 or batch_size % parts:
        raise UserError(
            f"config.{name} is {batch_size}; it must be a multiple of {parts}, the number of "
            "devices or processes that share a batch."
        )


def check_rows(image_size: tuple[int, int], mesh: Mesh) -> None:
    """Raises UserError unless every device that shares an image gets 64 of its rows.

    Then the coarsest maps (1/32) keep two rows a device. With one, XLA's partitioner computes wrong
    gradients of 3 x 3 convolutions, without a word (measured with JAX 0.10.2).
    """
    rows = mesh.shape["rows"]
    if rows > 1 and image_size[0] % (64 * rows):
        raise UserError(
            f"config.mesh.rows is {rows} but images are {image_size[0]} pixels high; their height "
            f"must be a multiple of {64 * rows}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: the train state."""
    return NamedSharding(mesh, P())


def maps(mesh: Mesh) -> NamedSharding:
    """Maps (b, h, w, c) over both axes: images over "data", their rows over "rows"."""
    return NamedSharding(mesh, P("data", "rows"))


def batch_shardings(batch: Batch, mesh: Mesh) -> Batch:
    """Shardings of a batch: images over "data", the rows of maps (b, h, w, c) over "rows"."""

    def sharding(x: jax.Array) -> NamedSharding:
        return maps(mesh) if x.ndim == 4 else NamedSharding(mesh, P("data"))

    return jax.tree.map(sharding, batch)


def to_devices(batch: Batch, mesh: Mesh) -> Batch:
    """Puts this process's rows of a batch on its devices: global arrays of the whole batch."""
    return jax.tree.map(
        lambda x, s: jax.make_array_from_process_local_data(s, x),
        batch,
        batch_shardings(batch, mesh),
    )
