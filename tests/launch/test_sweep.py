"""launch/sweep.py: which runs there are, what is finished, what each gets, and how they end."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from emanet_jax.errors import UserError
from emanet_jax.training import workdir
from launch import children
from tests.conftest import QUICK_COMPILATION, ROOT

TINY = f"{ROOT}/tests/tiny.py:backbone=segnet_tiny"
OVERRIDES = ("--config.model.overrides={}", "--config.epochs=2")

# Stands in for a training of 3 steps: goes on where it stopped, a step every {pause} seconds;
# SIGTERM ends it after the step, a second one at once.
TRAINING = """
import json, pathlib, signal, sys, time
place, config, pause, fails = pathlib.Path(sys.argv[1]), *sys.argv[2:4], sys.argv[4:]
asked = []
def note(*_):
    asked.append(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGTERM, note)
(place / "started").open("a").write(".")
if fails:
    sys.exit("error: " + fails[0])
(place / "config.json").write_text(config)
(place / "environment.json").write_text(json.dumps([{"total_steps": 3}]))
path = place / "results.json"
done = json.loads(path.read_text())["step"] if path.exists() else 0
while done < 3 and not asked:
    time.sleep(float(pause))
    done += 1
path.write_text(json.dumps({"step": done}))
print("signals:", len(asked))
"""


def planned(tmp_path, networks=("stl", "hps"), seeds=(0, 1), **options) -> list[children.Run]:
    return children.plan(TINY, tmp_path, networks, seeds, overrides=OVERRIDES, **options)


def training(pause=0.0, failing=""):
    """The command of a run; those whose name has `failing` in it fail."""

    def command(run: children.Run) -> list[str]:
        config = workdir.to_json(run.config())
        fault = ["it broke"] if failing and failing in str(run) else []
        program = [sys.executable, "-c", TRAINING]
        return [*program, str(run.directory), config, str(pause), *fault]

    return command


def work(runs, parallel=2, **options) -> tuple[list[children.Run], children.Sweep]:
    slots = [children.Slot({})] * parallel
    sweep = children.Sweep(runs, slots, os.environ, training(**options))
    return sweep.work(), sweep


def starts(run: children.Run) -> int:
    path = run.directory / "started"
    return len(path.read_text()) if path.exists() else 0


def test_all_networks_of_a_seed_come_before_the_next_seed(tmp_path):
    runs = planned(tmp_path, ("stl", "ati_net"))
    names = ["stl/seed0", "ati_net/seed0", "stl/seed1", "ati_net/seed1"]
    assert list(map(str, runs)) == names
    assert [str(run.directory.relative_to(tmp_path)) for run in runs] == names
    config = runs[3].config()
    assert (config.model.name, config.model.backbone) == ("ati_net", "segnet_tiny")
    assert (config.seed, config.epochs) == (1, 2.0)
    assert runs[0].command()[1:3] == ["-m", "emanet_jax.main"]
    assert f"--workdir={tmp_path}/stl/seed0" in runs[0].command()


def test_networks_get_their_usual_backbones(tmp_path):
    config_file = f"{ROOT}/configs/synthrooms.py"
    runs = children.plan(config_file, tmp_path, ("ema_net", "ati_net"), (0,))
    assert [run.config().model.backbone for run in runs] == ["hrnet_w18", "segnet"]


def test_methods_of_balancing_are_rows_of_their_own(tmp_path):
    runs = planned(tmp_path, ("hps",), (5,), balancings=("fixed", "uncertainty"))
    assert list(map(str, runs)) == ["hps-fixed/seed5", "hps-uncertainty/seed5"]
    assert [run.config().balancing for run in runs] == ["fixed", "uncertainty"]


def test_overrides_are_found_among_other_flags():
    argv = ["sweep.py", "--config=a.py", "--config.x=1", "--seeds=0", "--config.y", "2"]
    argv += ["--noconfig.z", "--config.profile", "--parallel=2", "-config.w=(1, 2)"]
    expected = ["--config.x=1", "--config.y=2", "--noconfig.z", "--config.profile"]
    assert children.overrides(argv) == [*expected, "-config.w=(1, 2)"]


def write(run, config=None, step=3, total=3):
    run.directory.mkdir(parents=True, exist_ok=True)
    (run.directory / "config.json").write_text(config or workdir.to_json(run.config()))
    (run.directory / "results.json").write_text(json.dumps({"step": step}))
    starts = [{"total_steps": 2}, {"total_steps": total}]
    (run.directory / "environment.json").write_text(json.dumps(starts))


def test_finished_is_the_last_step_of_this_very_config(tmp_path):
    run, other = planned(tmp_path, ("hps",))
    assert not run.finished()
    write(run)
    assert run.finished()
    write(run, step=2)
    assert not run.finished()
    write(run, config=workdir.to_json(other.config()))
    assert not run.finished()
    write(run)
    (run.directory / "results.json").write_text('{"st')
    assert not run.finished()


def test_a_sweep_goes_on_with_what_is_not_finished(tmp_path, capfd):
    runs = planned(tmp_path)
    unfinished, _ = work(runs, failing="hps/seed1")
    assert unfinished == [runs[3]]
    out = capfd.readouterr().out
    assert re.search(r"\[\d/4\] stl/seed0 finished after \d+s", out)
    assert re.search(r"hps/seed1 failed \(1\) after \d+s; .*/hps/seed1/log.txt: error: it br", out)
    again = [run for run in runs if not run.finished()]
    assert again == [runs[3]]
    assert work(again)[0] == []
    assert [starts(run) for run in runs] == [1, 1, 1, 2]
    assert (runs[3].directory / "log.txt").read_text().splitlines() == [
        *("error: it broke", "signals: 0")
    ]


def test_a_process_that_ends_well_but_early_is_not_finished(tmp_path):
    (run,) = planned(tmp_path, ("hps",), (0,))
    quick = children.Sweep([run], [children.Slot({})], os.environ, lambda _: ["true"])
    assert quick.work() == [run]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_run_save_once_and_starts_no_more(tmp_path, number, capfd):
    runs = planned(tmp_path)

    def interrupt():
        while not all((run.directory / "config.json").exists() for run in runs[:2]):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    unfinished, sweep = work(runs, pause=0.5)
    assert sweep.stopped_by == number.name and unfinished == runs
    assert [starts(run) for run in runs] == [1, 1, 0, 0]
    for run in runs[:2]:
        assert (run.directory / "log.txt").read_text() == "signals: 1\n"
        assert 0 < json.loads((run.directory / "results.json").read_text())["step"] < 3
    assert "stl/seed0 stopped after" in capfd.readouterr().out
    assert signal.getsignal(number) not in (sweep._stop, None)


def test_the_time_left_is_by_network_where_that_is_known(tmp_path):
    runs = planned(tmp_path, ("stl", "hps"), (0, 1))
    sweep = children.Sweep(runs[2:], [children.Slot({})] * 2, {})
    sweep._seconds = {"stl": [100.0, 120.0], "hps": [10.0]}
    assert sweep._left() == "; about 1m00s left"  # (110 + 10) / 2


def test_each_accelerator_is_given_once():
    assert [x.variables for x in children.make_slots("gpu", 2, 0, {})] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    mine = {"CUDA_VISIBLE_DEVICES": "4,GPU-7"}
    (slot,) = children.make_slots("gpu", 2, 1, mine)
    assert slot.variables == {"CUDA_VISIBLE_DEVICES": "4"}
    _, slot = children.make_slots("gpu", 2, 2, mine)
    assert slot.variables == {"CUDA_VISIBLE_DEVICES": "GPU-7"} and slot.cores is None
    slots = children.make_slots("tpu", 4, 0, {})
    assert [x.variables["TPU_VISIBLE_DEVICES"] for x in slots] == list("0123")
    assert slots[0].variables["TPU_PROCESS_BOUNDS"] == "1,1,1"
    with pytest.raises(UserError, match="--parallel=3, but JAX sees 2 accelerators"):
        children.make_slots("gpu", 2, 3, {})


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {8, 1, 2, 3, 5}, raising=False)
    cores = [slot.cores for slot in children.make_slots("cpu", 1, 2, {})]
    assert cores == [{1, 2}, {3, 5}]
    assert [x.cores for x in children.make_slots("cpu", 1, 0, {})] == [{1, 2, 3, 5, 8}]
    assert len(children.make_slots("cpu", 1, 7, {})) == 7


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_a_run_keeps_to_its_cores_and_variables(tmp_path):
    (run,) = planned(tmp_path, ("hps",), (0,))
    core = min(os.sched_getaffinity(0))
    said = "import os; print(*os.sched_getaffinity(0), os.environ['WHICH'])"
    # The affinity is set just after the start: ask a little later.
    program = [sys.executable, "-c", f"import time; time.sleep(0.2); {said}"]
    slot = children.Slot({"WHICH": "mine"}, frozenset({core}))
    children.Sweep([run], [slot], os.environ, lambda _: program).work()
    assert (run.directory / "log.txt").read_text() == f"{core} mine\n"


@pytest.mark.slow
def test_a_sweep_from_start_to_report(tmp_path):
    """Two networks, one of which has no such backbone; then again with one that has."""
    command = [
        *(sys.executable, ROOT / "launch" / "sweep.py", f"--config={TINY}", "--parallel=2"),
        *(f"--workdir={tmp_path / 'sweep'}", f"--config.data.data_dir={tmp_path / 'records'}"),
        *("--config.tasks=('depth',)", "--config.checkpoint.best_metric=depth/rmse_m"),
        *("--config.epochs=1", "--config.model.overrides={}"),
    ]

    def sweep(networks: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*command, f"--networks={networks}"],
            cwd=tmp_path,
            env={**os.environ, "XLA_FLAGS": QUICK_COMPILATION},
            capture_output=True,
            text=True,
        )

    done = sweep("hps,ema_net")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ema_net cannot be built on segnet_tiny" in done.stdout
    assert (tmp_path / "sweep" / "report" / "report.html").exists()
    done = sweep("stl,hps")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs, 1 of them finished before; 2 at a time" in done.stdout
    data = json.loads((tmp_path / "sweep" / "report" / "report.json").read_text())
    assert data["reference"] == "stl" and len(data["groups"]) == 2
    log = (tmp_path / "sweep" / "hps" / "seed0" / "log.txt").read_text()
    assert log.count("step 4/4") == 1
