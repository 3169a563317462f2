"""Wrong comparisons and sweeps."""

import shutil
from pathlib import Path

from tests.conftest import ROOT
from tests.faults.builders import Fault, command, edited, garbage, removed, truncated, written

_COMPARE = command("compare", "--workdirs=run", "--output=new", "--images=0")
_TWINS = command("compare", "--workdirs=run,twin", "--output=new", "--images=0")


def _compare(*arguments: str) -> Fault:
    return command("compare", *arguments)


def _twin(**changes: object):
    """A second run, whose config differs."""

    def damage(folder: Path) -> None:
        shutil.copytree(folder / "run", folder / "twin")
        edited("twin/config.json", **changes)(folder)

    return damage


def _sweep(*arguments: str) -> Fault:
    given = {argument.partition("=")[0] for argument in arguments}
    usual = [f"--config={ROOT}/tests/tiny.py", "--workdir=new", "--networks=hps"]
    kept = [argument for argument in usual if argument.partition("=")[0] not in given]
    return Fault("launch.sweep", (*kept, *arguments), ())


COMPARISONS = {
    "of nothing": _compare("--output=new").but("--workdirs"),
    "to nowhere": _compare("--workdirs=run").but("--output"),
    "of fewer than no images": _compare("--workdirs=run", "--output=new", "--images=-1").but(
        "--images=-1", "at least 0"
    ),
    "of no run": _compare("--workdirs=data", "--output=new").but(
        "--workdirs=data holds no run that has been evaluated"
    ),
    "against a stranger": _compare("--workdirs=run", "--output=new", "--reference=data").but(
        "--reference=data is none of the runs"
    ),
    "of other tasks": _TWINS.but(
        "run and .*twin cannot be compared: tasks is .'depth'. and .'semseg'.",
        damage=_twin(tasks=["semseg"]),
    ),
    "of an older run": _TWINS.but("twin/config.json.*lacks remat", damage=_twin(remat=...)),
    "without results": _COMPARE.but(
        "run has not been evaluated yet", damage=removed("run/results.json")
    ),
    "of binary results": _COMPARE.but(
        "results.json cannot be read", damage=garbage("run/results.json")
    ),
    "of results in part": _COMPARE.but(
        "results.json cannot.*line", damage=truncated("run/results.json")
    ),
    "of a list of results": _COMPARE.but(
        "results.json cannot be read", damage=written("run/results.json", "[1]")
    ),
    "of results in words": _COMPARE.but(
        "results.json cannot.*low",
        damage=written("run/results.json", '{"step": 2, "depth/rmse_m": "low"}'),
    ),
    "of classes without numbers": _COMPARE.but(
        "per_class.json cannot be read",
        damage=written("run/per_class.json", '{"step": 2, "semseg/iou_percent": 3}'),
    ),
    "of half a start": _COMPARE.but(
        "environment.json", damage=written("run/environment.json", "[1")
    ),
    "into a file": _compare("--workdirs=run", "--output=weights.npz").but(
        "--output=weights.npz is a file"
    ),
    "into the system": _compare("--workdirs=run", "--output=/proc/x", "--images=0").but(
        "--output=/proc/x cannot be written"
    ),
}

SWEEPS = {
    "without a config": Fault("launch.sweep", ("--workdir=new", "--networks=hps"), ()).but(
        "--config is missing"
    ),
    "of nothing": Fault("launch.sweep", ("--workdir=new",), ()).but("--networks"),
    "of an unknown network": _sweep("--networks=hps,x").but("--networks=x is unknown", "ema_net"),
    "of a network twice": _sweep("--networks=hps,stl,hps").but("--networks names hps twice"),
    "of an unknown balancing": _sweep("--balancing=x").but("--balancing=x is unknown", "dwa"),
    "of seeds in words": _sweep("--seeds=one").but("--seeds=one must be numbers"),
    "of a seed twice": _sweep("--seeds=1,01").but("--seeds=1,01 has a number twice"),
    "of fewer than no runs": _sweep("--parallel=-1").but("parallel"),
    "of one run's config": _sweep("--config=run/config.json").but("run/config.json is of one net"),
    "of a value out of range": _sweep("--config.batch_size=-7").but("config.batch_size is -7"),
    "in a bucket": _sweep("--workdir=gs://b/x").but("--workdir=gs://b/x is no place on a disk"),
    "below a file": _sweep("--workdir=weights.npz/x").but("--workdir=.*weights.npz/x cannot be"),
}
