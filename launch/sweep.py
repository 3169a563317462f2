"""Trains a table of networks and seeds, several at a time, and ends in their report.

    ./launch/local.sh python launch/sweep.py --config=configs/synthrooms.py --workdir=runs/sweep \\
        --networks=stl,hps,ema_net --seeds=0,1,2 --parallel=2 --config.epochs=4

Each run is `python -m emanet_jax.main` in WORKDIR/NETWORK/seedSEED, and says what it does in
log.txt there. The same command again leaves out what is finished and goes on with the rest. A run
that fails does not stop the others. Ctrl-C or SIGTERM lets runs save and ends; a second one ends
them at once. At the end WORKDIR/report is what `python -m emanet_jax.compare` makes of the finished
runs. The exit status is 0 only if all are.

With accelerators each run gets one of its own, otherwise a share of the processor's cores.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # where the package is, for a script that is started by its path

from emanet_jax import cli  # noqa: E402
from emanet_jax.errors import UserError  # noqa: E402

if TYPE_CHECKING:
    from launch import children

_CONFIG = cli.define_config()
_WORKDIR = cli.define_path("workdir", "Folder that gets a folder for each run, and the report.")
_NETWORKS = flags.DEFINE_list("networks", None, "Networks, such as stl,hps,ema_net.", required=True)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of each, such as 0,1,2.")
_BALANCING = flags.DEFINE_list(
    "balancing", [], "Methods of config.balancing to train each network with; the config's own."
)
_PARALLEL = flags.DEFINE_integer(
    "parallel", 0, "Runs at a time; 0: as many as there are accelerators, or one.", lower_bound=0
)

# Says what there is to train on in a process of its own, since looking at an accelerator takes it.
_DEVICES = "import jax; print(jax.default_backend(), jax.local_device_count())"


def _command() -> int:
    # Imported here, so that flags are checked and --help answers before the libraries load.
    from emanet_jax import models
    from emanet_jax.balancing import METHODS
    from emanet_jax.config import check_config
    from launch import children

    if _CONFIG.value is None:
        raise UserError("--config is missing, such as --config=configs/synthrooms.py.")
    if "://" in _WORKDIR.value:
        raise UserError(
            f"--workdir={_WORKDIR.value} is no place on a disk, where runs of a sweep go; "
            "start single runs for others."
        )
    directory = pathlib.Path(_WORKDIR.value).expanduser().absolute()
    networks, balancings = _known("networks", models.NETWORKS), _known("balancing", METHODS)
    runs = children.plan(
        _config_file(), directory, networks, _seeds(), balancings, children.overrides(sys.argv)
    )
    for run in runs:
        check_config(run.config())
    slots = children.make_slots(*_devices(), _PARALLEL.value, os.environ)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={directory} cannot be made: {error.strerror}.") from error
    waiting = [run for run in runs if not run.finished()]
    print(
        f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished before; "
        f"{len(slots)} at a time; each one's output is in {directory}/.../{children.LOG}.",
        flush=True,
    )
    # Seeds of a network share its compiled programs.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(directory / "compiled")}
    sweep = children.Sweep(waiting, slots, {**cache, **os.environ, **_with_package()})
    unfinished = sweep.work()
    if sweep.stopped_by:
        print(f"Stopped by {sweep.stopped_by}: run again to go on.", flush=True)
        return 1
    finished = [run for run in runs if run not in unfinished]
    reported = not finished or _report(finished, directory / "report")
    return int(bool(unfinished) or not reported)


def _config_file() -> str:
    """PATH or PATH:ARGUMENT of --config.

    Raises:
        UserError: it is a run's own config.json, which takes no network.
    """
    value = config_flags.get_config_filename(flags.FLAGS["config"])
    if value.endswith(".json"):
        raise UserError(
            f"--config={value.rpartition(':')[2]} is of one network; give a config file such as "
            "configs/synthrooms.py, which takes any."
        )
    return value


def _known(flag: str, menu: Collection[str]) -> list[str]:
    """The names that a flag lists.

    Raises:
        UserError: one is not on the menu, or stands there twice.
    """
    names = flags.FLAGS[flag].value
    for name in names:
        if name not in menu:
            raise UserError(f"--{flag}={name} is unknown; choose from {', '.join(menu)}.")
        if names.count(name) > 1:
            raise UserError(f"--{flag} names {name} twice.")
    return names


def _seeds() -> list[int]:
    """The numbers of --seeds; UserError unless they are some, each once."""
    seeds = _SEEDS.value
    if not seeds or not all(x.isascii() and x.isdecimal() for x in seeds):
        raise UserError(f"--seeds={','.join(seeds)} must be numbers such as 0,1,2.")
    numbers = [int(x) for x in seeds]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds={','.join(seeds)} has a number twice.")
    return numbers


def _devices() -> tuple[str, int]:
    """The kind of devices that JAX finds here, and their number."""
    asked = subprocess.run(
        [sys.executable, "-c", _DEVICES], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise UserError(f"JAX finds no devices: {asked.stderr.strip().splitlines()[-1]}")
    backend, count = asked.stdout.split()
    return backend, int(count)


def _report(finished: Sequence["children.Run"], output: pathlib.Path) -> bool:
    """Writes the report of these runs; whether that went well."""
    places = ",".join(str(run.directory) for run in finished)
    command = [sys.executable, "-m", "emanet_jax.compare"]
    command += [f"--workdirs={places}", f"--output={output}"]
    single = [run for run in finished if run.network == "stl"]
    if single:  # the first, where there are several methods of balancing
        command.append(f"--reference={single[0].directory}")
    variables = {**os.environ, **_with_package()}
    return subprocess.run(command, env=variables, check=False).returncode == 0


def _with_package() -> dict[str, str]:
    """The variable of the environment that lets children in any folder find the package."""
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(places)}


if __name__ == "__main__":
    cli.run(_command)
