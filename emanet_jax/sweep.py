"""Trains a table of networks and seeds, several at a time, and ends in their report.

    python -m emanet_jax.sweep --config=synthrooms --workdir=runs/sweep \\
        --networks=stl,hps,ema_net --seeds=0,1,2 --parallel=2 --config.epochs=4

Each run is `python -m emanet_jax.main` in WORKDIR/NETWORK/seedSEED, with its config in sweep.json
and its output in log.txt there. The same command again leaves out what is finished and goes on with
the rest; a run that fails does not stop the others. Ctrl-C or SIGTERM lets the runs save and ends.
At the end WORKDIR/report is what `python -m emanet_jax.compare` makes of the finished runs.

With --parallel each run gets an accelerator of its own, on CPUs its share of the cores. The exit
status is 0 if all runs are finished, 75 if a signal stopped them, otherwise 1.
"""

import functools
import itertools
import operator
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from emanet_jax import cli, menu
from emanet_jax.config import check_config, spell_out, to_json
from emanet_jax.errors import UserError

cli.define_config(required=True)
_WORKDIR = cli.define_path("workdir", "Folder that gets a folder for each run, and the report.")
_NETWORKS = flags.DEFINE_list("networks", None, "Networks, such as stl,hps,ema_net.", required=True)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of each, such as 0,1,2.")
_BALANCING = flags.DEFINE_list("balancing", [], "Values of config.balancing to train each with.")
_PARALLEL = flags.DEFINE_integer("parallel", 1, "Runs at a time.", lower_bound=1)

LOG, CONFIG, FINISHED = "log.txt", "sweep.json", "finished.json"
# Variables that make one accelerator all that a process sees; the first one names it.
ONE_DEVICE = {
    "gpu": {"CUDA_VISIBLE_DEVICES": ""},
    "tpu": {
        "TPU_VISIBLE_DEVICES": "",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
    },
}
# Asked in a process of its own, since looking at an accelerator takes it.
_DEVICES = "import jax; print(jax.default_backend(), jax.local_device_count())"


class Slot(NamedTuple):
    """The share of the machine of one of the runs at a time."""

    variables: Mapping[str, str]  # of its environment
    cores: frozenset[int] = frozenset()  # none: all of them


def table(
    config_file: str,
    overrides: Mapping[str, Any],
    networks: Sequence[str],
    seeds: Sequence[int],
    balancings: Sequence[str] = (),
) -> dict[str, ConfigDict]:
    """{folder: config} of all runs of the first seed, then of the second.

    Args:
        config_file: the name or the path of a recipe, or either with :ARGUMENT.
        overrides: {KEY: value} of --config.KEY=VALUE.
        networks: their names.
        seeds: of each network.
        balancings: methods that each network is trained with; (): the recipe's own.
    """
    path, _, argument = config_file.partition(":")
    get_config = runpy.run_path(cli.find_recipe(path))["get_config"]
    runs = {}
    for seed, network, balancing in itertools.product(seeds, networks, balancings or ("",)):
        config = get_config(",".join(filter(None, [argument, f"model={network}"])))
        varied = {"balancing": balancing} if balancing else {}
        for key, value in {**overrides, **varied, "seed": seed}.items():
            *groups, last = key.split(".")
            functools.reduce(operator.getitem, groups, config)[last] = value
        spell_out(config)
        runs[f"{'-'.join(filter(None, [network, balancing]))}/seed{seed}"] = config
    return runs


def make_slots(
    backend: str, devices: int, parallel: int, environment: Mapping[str, str]
) -> list[Slot]:
    """One for each of `parallel` runs at a time.

    Args:
        backend: JAX's name of the kind of devices.
        devices: their number.
        parallel: runs at a time.
        environment: of this process.

    Raises:
        UserError: there are fewer accelerators.
    """
    if parallel == 1:
        return [Slot({})]
    if backend not in ONE_DEVICE:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        return [Slot({}, frozenset(cores[k::parallel])) for k in range(parallel)]
    if parallel > devices:
        raise UserError(f"--parallel={parallel} needs as many accelerators; JAX sees {devices}.")
    which = next(iter(ONE_DEVICE[backend]))
    visible = environment.get(which) or ",".join(map(str, range(devices)))
    return [Slot({**ONE_DEVICE[backend], which: x}) for x in visible.split(",")[:parallel]]


def train(
    directory: pathlib.Path,
    commands: Mapping[str, Sequence[str]],
    slots: Sequence[Slot],
    environment: Mapping[str, str],
) -> tuple[dict[str, int], bool]:
    """Runs {folder: command}, as many at a time as there are slots, each with a log in its folder.

    SIGTERM and SIGINT are passed on as SIGTERM, upon which runs save and end; no more are started.

    Returns:
        {folder: exit status} of those that have ended, and whether a signal came.
    """
    waiting, free, stopped = list(commands), list(slots), False
    running: dict[str, tuple[subprocess.Popen, Slot]] = {}
    ended: dict[str, int] = {}

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        for process, _slot in running.values():
            process.terminate()

    previous = {x: signal.signal(x, stop) for x in (signal.SIGTERM, signal.SIGINT)}
    try:
        while running or (waiting and not stopped):
            while waiting and free and not stopped:
                folder, slot = waiting.pop(0), free.pop(0)
                with (directory / folder / LOG).open("ab") as log:
                    process = subprocess.Popen(
                        commands[folder],
                        env={**environment, **slot.variables},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # or Ctrl-C would reach it twice, which kills it
                    )
                running[folder] = process, slot
                if slot.cores:  # before it makes threads, which inherit them
                    os.sched_setaffinity(process.pid, slot.cores)
                if stopped:  # while it was started
                    process.terminate()
            time.sleep(0.2)
            for folder in [x for x in running if running[x][0].poll() is not None]:
                process, slot = running.pop(folder)
                free.append(slot)
                ended[folder] = process.returncode
                print(f"[{len(ended)}/{len(commands)}] {folder} ", end="")
                if process.returncode == 0:
                    (directory / folder / CONFIG).replace(directory / folder / FINISHED)
                    print("is finished", flush=True)
                elif process.returncode == os.EX_TEMPFAIL:
                    print("is stopped", flush=True)
                else:
                    log_file = directory / folder / LOG
                    last = log_file.read_text(errors="replace").strip().rpartition("\n")[-1]
                    print(f"failed ({process.returncode}); {log_file}: {last}", flush=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return ended, stopped


def _command() -> int:
    recipe = config_flags.get_config_filename(flags.FLAGS["config"])
    if recipe.endswith(".json"):
        raise UserError(f"--config={recipe.rpartition(':')[2]} is of one network; give a recipe.")
    if "://" in _WORKDIR.value:
        raise UserError(f"--workdir={_WORKDIR.value} must be on a disk; start single runs there.")
    cli.check_names("networks", _NETWORKS.value, menu.NETWORKS)
    cli.check_names("balancing", _BALANCING.value, menu.METHODS)
    if not all(x.isascii() and x.isdecimal() for x in _SEEDS.value) or not _SEEDS.value:
        raise UserError(f"--seeds={','.join(_SEEDS.value)} must be numbers such as 0,1,2.")
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    seeds = list(map(int, _SEEDS.value))
    runs = table(recipe, overrides, _NETWORKS.value, seeds, _BALANCING.value)
    for config in runs.values():
        check_config(config)

    asked = [sys.executable, "-c", _DEVICES]
    backend, devices = subprocess.run(asked, stdout=-1, text=True, check=True).stdout.split()
    slots = make_slots(backend, int(devices), _PARALLEL.value, os.environ)
    package = str(pathlib.Path(__file__).parent.parent)  # found from any folder, installed or not
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    main = [sys.executable, "-m", "emanet_jax.main"]
    directory = pathlib.Path(_WORKDIR.value).expanduser().absolute()
    commands = {}
    for folder, config in runs.items():
        run, text = directory / folder, to_json(config)
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir={directory} cannot be made: {error.strerror}.") from error
        if not (run / FINISHED).exists() or (run / FINISHED).read_text() != text:
            (run / CONFIG).write_text(text)
            commands[folder] = [*main, f"--config={run / CONFIG}", f"--workdir={run}"]
    print(f"{len(runs)} runs, {len(runs) - len(commands)} of them finished before.", flush=True)
    ended, stopped = train(directory, commands, slots, environment)
    if stopped:
        print("Stopped by a signal: the same command goes on.", flush=True)
        return os.EX_TEMPFAIL
    finished = [x for x in runs if ended.get(x, 0) == 0]
    if finished:
        report = [sys.executable, "-m", "emanet_jax.compare", f"--output={directory / 'report'}"]
        report.append(f"--workdirs={','.join(str(directory / x) for x in finished)}")
        single = [x for x in finished if runs[x].model.name == "stl"]
        report += [f"--reference={directory / x}" for x in single[:1]]
        reported = subprocess.run(report, env=environment, check=False).returncode == 0
    return int(not finished or not reported or len(finished) < len(runs))


if __name__ == "__main__":
    cli.run(_command)
