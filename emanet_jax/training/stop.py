"""Signals that ask a run to stop, and the agreement of all its processes on the step for it."""

import collections
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_BEHIND = 1  # answers are read this many calls late, so that asking does not wait for the devices


class StopSignal:
    """Whether SIGTERM or Ctrl-C has asked the run, in any of its processes, to stop.

    The first signal is noted; a second one acts as usual.

    Args:
        mesh: of all devices of all processes.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._received: str | None = None
        self._previous: dict[int, Any] = {}
        self._asked: collections.deque[jax.Array] = collections.deque()
        self._agreed = False
        self._by_device = NamedSharding(mesh, P(mesh.axis_names))
        self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    @property
    def name(self) -> str:
        """The signal."""
        return self._received or "a signal to another process"

    def reached(self) -> bool:
        """Whether to stop: call it on all processes alike, as often; all get the same answer."""
        if jax.process_count() == 1:
            return self._received is not None
        if not self._agreed:
            local = np.full(jax.local_device_count(), self._received is not None)
            flags = jax.make_array_from_process_local_data(self._by_device, local)
            self._asked.append(self._any(flags))
            self._agreed = len(self._asked) > _BEHIND and bool(self._asked.popleft())
        return self._agreed

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: Any) -> None:
        self._received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_: Any) -> None:
        self._restore()
