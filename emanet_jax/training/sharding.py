"""Processes and their device mesh, and how state and batches lie on it."""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from emanet_jax import strict_json
from emanet_jax.errors import UserError
from emanet_jax.training import peers
from emanet_jax.types import Batch


def connect(
    mode: str,
    coordinator: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run; call it before anything touches a device.

    Args:
        mode: "auto" finds the others as Cloud TPU, Slurm, Kubernetes or Open MPI describe them in
            the environment; "off" looks for nothing, so that a process is alone unless the other
            arguments are given.
        coordinator: HOST:PORT of the first process.
        process_count: of the run.
        process_id: of this one, from 0.

    Raises:
        UserError: an argument is missing or the others cannot be found.
    """
    given = (coordinator, process_count, process_id)
    if mode == "off" and given == (None, None, None):
        return
    if mode == "off" and None in given:
        raise UserError(
            "--coordinator, --process_count and --process_id belong together: give all three, or "
            "--distributed=auto alone."
        )
    # SIGTERM is for `stop.StopSignal`, which also knows Ctrl-C and a second signal.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *given,
            # The others end, instead of waiting for a dead one for ever.
            heartbeat_timeout_seconds=peers.DEAD_AFTER_SECONDS,
            shutdown_timeout_seconds=peers.DEAD_AFTER_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"the processes of this run did not find each other ({reason}); --distributed=auto "
            "knows Cloud TPU, Slurm, Kubernetes and Open MPI, elsewhere give --coordinator, "
            "--process_count and --process_id."
        ) from error
    if jax.process_index() > 0:  # the first process speaks for all
        logging.getLogger("emanet_jax").setLevel(logging.WARNING)


def on_first(action: Callable[[], Any]) -> Any:
    """The result of `action`, which the first process runs alone, on all processes.

    Args:
        action: its result must be one that JSON can hold.

    Raises:
        UserError: on all of them, if `action` raises one.
    """
    outcome: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            outcome = {"value": action()}
        except UserError as error:
            outcome = {"error": str(error)}
    if jax.process_count() > 1:
        text = strict_json.dumps(outcome).encode()
        length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
        padded = np.frombuffer(text.ljust(length)[:length], np.uint8)
        outcome = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))
    if "error" in outcome:
        raise UserError(outcome["error"])
    return outcome["value"]


def make_mesh(spatial: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh ("data", "spatial") over all devices; `spatial` of them share an image.

    Raises:
        UserError: the devices of a process cannot be divided into groups of `spatial`.
    """
    devices = jax.devices() if devices is None else devices
    # Each process reads whole images, so those that share one must be its own.
    local = len(devices) // len({device.process_index for device in devices})
    if spatial < 1 or local % spatial:
        raise UserError(
            f"config.mesh.spatial is {spatial}; it must divide the number of devices of a process, "
            f"{local}."
        )
    # In the order of processes, which is that of the batch's rows.
    grid = np.asarray(sorted(devices, key=lambda device: (device.process_index, device.id)))
    return Mesh(grid.reshape(-1, spatial), ("data", "spatial"), axis_types=(AxisType.Auto,) * 2)


def check_batch_size(name: str, batch_size: int, mesh: Mesh, processes: int = 1) -> None:
    """Raises UserError unless every device and process gets the same number of images."""
    parts = max(mesh.shape["data"], processes)
    if batch_size < 1 or batch_size % parts:
        raise UserError(
            f"config.{name} is {batch_size}; it must be a multiple of {parts}, the number of "
            "devices or processes that share a batch."
        )


def check_accumulate(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raises UserError unless a batch splits into micro-batches that all devices share."""
    parts = accumulate * mesh.shape["data"]
    if batch_size % parts:
        raise UserError(
            f"config.accumulate is {accumulate}, but config.batch_size, {batch_size}, is no "
            f"multiple of {parts}: every micro-batch needs as many images for each of the devices "
            "that share it."
        )


def check_spatial(image_size: tuple[int, int], mesh: Mesh) -> None:
    """Raises UserError unless every device that shares an image gets 64 of its rows.

    Then the coarsest maps (1/32) keep two rows a device. With one, XLA's partitioner computes wrong
    gradients of 3 x 3 convolutions, without a word (measured with JAX 0.10.2).
    """
    spatial = mesh.shape["spatial"]
    if spatial > 1 and image_size[0] % (64 * spatial):
        raise UserError(
            f"config.mesh.spatial is {spatial} but images are {image_size[0]} pixels high; it "
            f"must be a multiple of {64 * spatial}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: the train state."""
    return NamedSharding(mesh, P())


def maps(mesh: Mesh) -> NamedSharding:
    """Maps (b, h, w, c) over both axes: images over "data", their rows over "spatial"."""
    return NamedSharding(mesh, P("data", "spatial"))


def batch_shardings(batch: Batch, mesh: Mesh) -> Batch:
    """Shardings of a batch: images over "data", the rows of maps (b, h, w, c) over "spatial"."""

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
