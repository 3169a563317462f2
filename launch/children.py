"""The runs of a sweep: which there are, what is finished, what each may use, their processes."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from emanet_jax.errors import UserError
from emanet_jax.training import workdir
from emanet_jax.training.logs import duration

LOG = "log.txt"
_SECONDS_BETWEEN_LOOKS = 0.2

# What makes one accelerator all that a process sees: the first variable names it.
_ONE_DEVICE = {
    "gpu": {"CUDA_VISIBLE_DEVICES": ""},
    "tpu": {
        "TPU_VISIBLE_DEVICES": "",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
    },
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        network: of the menu.
        name: of what it is a seed of, such as "ema_net" or "ema_net-uncertainty".
        seed: of the run.
        directory: its workdir.
        arguments: of emanet_jax.main, without --workdir.
    """

    network: str
    name: str
    seed: int
    directory: pathlib.Path
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}/seed{self.seed}"

    def command(self) -> list[str]:
        """What trains it."""
        main = [sys.executable, "-m", "emanet_jax.main"]
        return [*main, *self.arguments, f"--workdir={self.directory}"]

    def config(self) -> ml_collections.ConfigDict:
        """Its whole config."""
        values = flags.FlagValues()
        config_flags.DEFINE_config_file(
            "config", flag_values=values, sys_argv=["sweep", *self.arguments]
        )
        values(["sweep", *self.arguments])
        return values.config

    def finished(self) -> bool:
        """Whether its workdir holds a run of just this config, evaluated after its last step."""
        names = (workdir.CONFIG, workdir.RESULTS, workdir.ENVIRONMENT)
        config, results, starts = (_read(self.directory / name) for name in names)
        if not (config and results and starts and "total_steps" in starts[-1]):
            return False
        same = config == json.loads(workdir.to_json(self.config()))
        return same and results["step"] == starts[-1]["total_steps"]


def _read(path: pathlib.Path) -> Any:
    """What a JSON file holds; None unless it is there and whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def plan(
    config_file: str,
    directory: pathlib.Path,
    networks: Sequence[str],
    seeds: Sequence[int],
    balancings: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> list[Run]:
    """All runs of the first seed, then of the second: a sweep that is stopped compares them all.

    Args:
        config_file: path, or path:argument.
        directory: that holds the runs' workdirs.
        networks: of the menu.
        seeds: of each.
        balancings: methods that each network is trained with; (): the config's own.
        overrides: --config.KEY=VALUE of all runs.
    """
    path, _, argument = config_file.partition(":")
    runs = []
    for seed in seeds:
        for network in networks:
            chosen = ",".join(part for part in (argument, f"model={network}") if part)
            for balancing in balancings or ("",):
                name = f"{network}-{balancing}" if balancing else network
                varied = [f"--config.balancing={balancing}"] if balancing else []
                varied.append(f"--config.seed={seed}")
                arguments = (f"--config={path}:{chosen}", *overrides, *varied)
                runs.append(Run(network, name, seed, directory / name / f"seed{seed}", arguments))
    return runs


def overrides(argv: Sequence[str]) -> list[str]:
    """The --config.KEY=VALUE among arguments; a space may stand for the "="."""
    found = []
    for arg, following in zip(argv, [*argv[1:], "-"], strict=True):
        if re.match("--?(no)?config[.]", arg):
            found.append(arg if "=" in arg or following.startswith("-") else f"{arg}={following}")
    return found


@dataclasses.dataclass(frozen=True)
class Slot:
    """What one run at a time may use: variables of its environment, and cores (None: all)."""

    variables: Mapping[str, str]
    cores: frozenset[int] | None = None


def make_slots(
    backend: str, devices: int, parallel: int, variables: Mapping[str, str]
) -> list[Slot]:
    """What each of the runs at a time gets: an accelerator of its own, or a share of the cores.

    Args:
        backend: JAX's name of the kind of devices.
        devices: their number.
        parallel: runs at a time; 0: as many as there are accelerators, or one.
        variables: of this process's environment.

    Raises:
        UserError: there are not so many accelerators.
    """
    if backend not in _ONE_DEVICE:
        return _shares_of_cores(parallel or 1)
    if parallel > devices:
        raise UserError(
            f"--parallel={parallel}, but JAX sees {devices} accelerators here and each run needs "
            "one of its own."
        )
    fixed = dict(_ONE_DEVICE[backend])
    which = next(iter(fixed))
    names = variables[which].split(",") if variables.get(which) else map(str, range(devices))
    return [Slot({**fixed, which: name}) for name in list(names)[: parallel or devices]]


def _shares_of_cores(parallel: int) -> list[Slot]:
    if not hasattr(os, "sched_getaffinity"):  # a system that deals them out itself
        return [Slot({})] * parallel
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // parallel)
    firsts = (index * share for index in range(parallel))
    return [
        Slot({}, frozenset(cores[(first + k) % len(cores)] for k in range(share)))
        for first in firsts
    ]


@dataclasses.dataclass(frozen=True)
class _Started:
    run: Run
    slot: Slot
    process: subprocess.Popen
    since: float


class Sweep:
    """Runs in processes of their own, as many at a time as there are slots.

    Args:
        runs: in the order in which they are started.
        slots: one for each run at a time.
        variables: of the processes' environment, beside their slots'.
        command: of a run.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        slots: Sequence[Slot],
        variables: Mapping[str, str],
        command: Callable[[Run], list[str]] = Run.command,
    ) -> None:
        self._waiting, self._free = list(runs), list(slots)
        self._variables, self._command = variables, command
        self._started: list[_Started] = []
        self._total, self._over = len(runs), 0
        self._seconds: dict[str, list[float]] = {}  # that finished runs took, by name
        self.stopped_by = ""

    def work(self) -> list[Run]:
        """Trains all; returns those that are not finished then.

        SIGTERM and Ctrl-C are passed on as SIGTERM, upon which runs save and end.
        """
        unfinished = []
        previous = {x: signal.signal(x, self._stop) for x in (signal.SIGTERM, signal.SIGINT)}
        try:
            while self._started or (self._waiting and not self.stopped_by):
                while self._free and self._waiting and not self.stopped_by:
                    self._start(self._waiting.pop(0), self._free.pop(0))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                for started in [x for x in self._started if x.process.poll() is not None]:
                    unfinished += self._end(started)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return unfinished + self._waiting

    def _start(self, run: Run, slot: Slot) -> None:
        run.directory.mkdir(parents=True, exist_ok=True)
        with open(run.directory / LOG, "ab") as log:
            process = subprocess.Popen(
                self._command(run),
                env={**self._variables, **slot.variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # or Ctrl-C would reach it twice, which kills it
            )
        if slot.cores:
            os.sched_setaffinity(process.pid, slot.cores)  # before it makes threads: they inherit
        self._started.append(_Started(run, slot, process, time.monotonic()))
        if self.stopped_by:  # since the loop looked
            process.terminate()

    def _stop(self, number: int, _: Any) -> None:
        self.stopped_by = signal.Signals(number).name
        for started in self._started:
            if started.process.poll() is None:
                started.process.terminate()

    def _end(self, started: _Started) -> list[Run]:
        """Says how a run ended; returns it unless it is finished."""
        self._started.remove(started)
        self._free.append(started.slot)
        self._over += 1
        run, status = started.run, started.process.returncode
        seconds = time.monotonic() - started.since
        finished = status == 0 and run.finished()
        if finished:
            self._seconds.setdefault(run.name, []).append(seconds)
            words = f"finished after {duration(seconds)}{self._left()}"
        elif self.stopped_by:
            words = f"stopped after {duration(seconds)}"
        else:
            log = run.directory / LOG
            lines = log.read_text(errors="replace").split("\n")
            said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
            words = f"failed ({status}) after {duration(seconds)}; {log}: {said}"
        print(f"[{self._over}/{self._total}] {run} {words}", flush=True)
        return [] if finished else [run]

    def _left(self) -> str:
        """The time that is left, as far as finished runs tell: "; about 12m30s left"."""
        known = [x for seconds in self._seconds.values() for x in seconds]

        def expected(run: Run) -> float:
            own = self._seconds.get(run.name, known)
            return sum(own) / len(own)

        now = time.monotonic()
        going_on = sum(max(0.0, expected(x.run) - (now - x.since)) for x in self._started)
        work = going_on + sum(expected(run) for run in self._waiting)
        places = len(self._free) + len(self._started)
        return f"; about {duration(work / places)} left" if work else ""
