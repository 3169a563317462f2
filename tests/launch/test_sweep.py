"""Sweeps: which runs there are, what each gets, how they end, and what is left out."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from emanet_jax import sweep
from emanet_jax.errors import UserError
from tests.conftest import QUICK_COMPILATION, ROOT

TINY = f"{ROOT}/tests/tiny.py:backbone=segnet_tiny"

# Stands in for a training: SIGTERM ends it after a moment with 75, a second one at once.
TRAINING = """
import os, pathlib, signal, sys, time
place, pause, status = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
asked = []
def note(*_):
    asked.append(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGTERM, note)
(place / "started").open("a").write(".")
end = time.monotonic() + pause
while time.monotonic() < end and not asked:
    time.sleep(0.02)
print("signals:", len(asked), flush=True)
if status:
    print("error: it broke\\n")
sys.exit(75 if asked else status)
"""


def commands(directory, folders, pause=0.0, failing=()):
    """{folder: command} with each folder made as the sweep makes it."""
    made = {}
    for folder in folders:
        (directory / folder).mkdir(parents=True, exist_ok=True)
        (directory / folder / sweep.CONFIG).write_text("{}")
        status = "3" if folder in failing else "0"
        made[folder] = [
            *(sys.executable, "-S", "-c", TRAINING),
            *(str(directory / folder), str(pause), status),
        ]
    return made


def test_all_networks_of_a_seed_come_before_the_next_seed():
    overrides = {"epochs": 2.0, "model.overrides": {}}
    runs = sweep.table(TINY, overrides, ["stl", "ati_net"], [0, 1])
    assert list(runs) == ["stl/seed0", "ati_net/seed0", "stl/seed1", "ati_net/seed1"]
    config = runs["ati_net/seed1"]
    assert (config.model.name, config.model.backbone) == ("ati_net", "segnet_tiny")
    assert (config.seed, config.epochs, config.model.overrides.to_dict()) == (1, 2.0, {})
    assert [run.seed for run in runs.values()] == [0, 0, 1, 1]


def test_networks_get_their_usual_backbones():
    runs = sweep.table(f"{ROOT}/configs/synthrooms.py", {}, ["ema_net", "ati_net"], [0])
    assert [run.model.backbone for run in runs.values()] == ["hrnet_w18", "segnet"]


def test_methods_of_balancing_are_rows_of_their_own():
    runs = sweep.table(TINY, {}, ["hps"], [5], ["fixed", "uncertainty"])
    assert list(runs) == ["hps-fixed/seed5", "hps-uncertainty/seed5"]
    assert [run.balancing for run in runs.values()] == ["fixed", "uncertainty"]


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, capsys):
    folders = ["a/seed0", "b/seed0", "c/seed0"]
    made = commands(tmp_path, folders, failing=["b/seed0"])
    ended, stopped = sweep.train(tmp_path, made, [sweep.Slot({})] * 2, os.environ)
    assert ended == {"a/seed0": 0, "b/seed0": 3, "c/seed0": 0} and not stopped
    out = capsys.readouterr().out
    assert "/3] a/seed0 is finished" in out
    assert f"b/seed0 failed (3); {tmp_path}/b/seed0/log.txt: error: it broke\n" in out
    assert [(tmp_path / x / sweep.FINISHED).exists() for x in folders] == [True, False, True]
    log = tmp_path / "b/seed0" / sweep.LOG
    sweep.train(tmp_path, commands(tmp_path, ["b/seed0"]), [sweep.Slot({})], os.environ)
    assert log.read_text() == "signals: 0\nerror: it broke\n\nsignals: 0\n"  # both starts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_run_save_once_and_starts_no_more(tmp_path, number, capsys):
    folders = ["a", "b", "c"]
    made = commands(tmp_path, folders, pause=60)

    def interrupt():
        while not all((tmp_path / x / "started").exists() for x in folders[:2]):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    before = signal.getsignal(number)
    ended, stopped = sweep.train(tmp_path, made, [sweep.Slot({})] * 2, os.environ)
    assert stopped and ended == {"a": 75, "b": 75}
    assert [(tmp_path / x / "log.txt").exists() for x in folders] == [True, True, False]
    assert (tmp_path / "a" / "log.txt").read_text() == "signals: 1\n"
    assert "a is stopped" in capsys.readouterr().out
    assert signal.getsignal(number) is before
    assert not (tmp_path / "a" / sweep.FINISHED).exists()


def test_each_accelerator_is_given_once():
    assert sweep.make_slots("gpu", 2, 1, {}) == [sweep.Slot({})]  # a run alone has them all
    assert [x.variables for x in sweep.make_slots("gpu", 2, 2, {})] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    _, second = sweep.make_slots("gpu", 2, 2, {"CUDA_VISIBLE_DEVICES": "4,GPU-7"})
    assert second == sweep.Slot({"CUDA_VISIBLE_DEVICES": "GPU-7"})
    slots = sweep.make_slots("tpu", 4, 4, {})
    assert [x.variables["TPU_VISIBLE_DEVICES"] for x in slots] == list("0123")
    assert slots[0].variables["TPU_PROCESS_BOUNDS"] == "1,1,1"
    with pytest.raises(UserError, match=r"--parallel=3 needs .* JAX sees 2"):
        sweep.make_slots("gpu", 2, 3, {})


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {8, 1, 2, 3, 5}, raising=False)
    assert [x.cores for x in sweep.make_slots("cpu", 1, 2, {})] == [{1, 3, 8}, {2, 5}]
    assert sweep.make_slots("cpu", 1, 1, {}) == [sweep.Slot({})]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_a_run_keeps_to_its_cores_and_variables(tmp_path):
    core = min(os.sched_getaffinity(0))
    code = "import os; print(*os.sched_getaffinity(0), os.environ['WHICH'])"
    # The affinity is set just after the start: ask a little later.
    program = [sys.executable, "-c", f"import time; time.sleep(0.2); {code}"]
    commands(tmp_path, ["a"])
    slot = sweep.Slot({"WHICH": "mine"}, frozenset({core}))
    sweep.train(tmp_path, {"a": program}, [slot], os.environ)
    assert (tmp_path / "a" / "log.txt").read_text() == f"{core} mine\n"


@pytest.mark.slow
def test_a_sweep_from_start_to_report(tmp_path):
    """Two networks, one of which has no such backbone; then again with one that has."""
    command = [
        *(sys.executable, "-m", "emanet_jax.sweep", f"--config={TINY}", "--parallel=2"),
        *(f"--workdir={tmp_path / 'sweep'}", f"--config.data.data_dir={tmp_path / 'records'}"),
        *("--config.tasks=('depth',)", "--config.checkpoint.best_metric=depth/rmse_m"),
        *("--config.epochs=1", "--config.model.overrides={}"),
    ]

    def run(networks: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*command, f"--networks={networks}"],
            cwd=tmp_path,
            env={**os.environ, "XLA_FLAGS": QUICK_COMPILATION, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    done = run("hps,ema_net")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ema_net cannot be built on segnet_tiny" in done.stdout
    assert (tmp_path / "sweep" / "report" / "report.html").exists()
    done = run("stl,hps")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs, 1 of them finished before" in done.stdout
    data = json.loads((tmp_path / "sweep" / "report" / "report.json").read_text())
    assert data["reference"] == "stl" and len(data["groups"]) == 2
    log = (tmp_path / "sweep" / "hps" / "seed0" / "log.txt").read_text()
    assert log.count("step 4/4") == 1
