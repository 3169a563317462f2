"""launch/slurm.sh, skypilot.yaml, and the style of all scripts of launch/."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.launch.programs import TRAIN, answer, calls, environment, run

SLURM = ("--nodes=2", "--gpus-per-node=4", "--time=08:00:00", "--partition=gpu")


def test_a_job_is_submitted_as_dry_run_prints_it(project):
    printed = run(project, "slurm.sh", *SLURM, "--dry-run", *TRAIN)
    assert printed.returncode == 0 and not calls(project)
    done = run(project, "slurm.sh", *SLURM, *TRAIN)
    assert done.returncode == 0, done.stderr
    install, submit = map(shlex.split, printed.stdout.splitlines())
    assert install == ["env", "EXTRA=jax[cuda12]", "./launch/local.sh", "true"]
    assert calls(project) == [submit]
    flags, script = submit[: submit.index("in-job")], submit[submit.index("in-job") + 1 :]
    assert script == list(TRAIN[1:]) and flags[-1] == "launch/slurm.sh"
    # JAX gives a process the GPU of its number on the node, so there must be as many of them.
    assert {*SLURM, "--ntasks-per-node=4", "--signal=B:USR1@120", "--requeue"} < set(flags)
    assert f"--chdir={project}" in flags
    without = run(project, "slurm.sh", "--gpus-per-node=0", "--dry-run", *TRAIN).stdout
    assert "--ntasks-per-node=1 " in without and "gpus" not in without and "jax[" not in without


def test_a_job_starts_a_process_a_task_and_gives_its_status(project):
    answer(project, srun=["5 "])
    done = run(project, "slurm.sh", "in-job", *TRAIN[1:], cwd=project, SLURM_JOB_ID="9")
    assert done.returncode == 5
    words = ["python", "-m", "emanet_jax.main", "--distributed=auto", *TRAIN[1:]]
    assert calls(project) == [["srun", "--kill-on-bad-exit=1", "./launch/local.sh", *words]]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_whose_time_is_up_saves_and_is_queued_again(project, number):
    """A job that is cancelled is not; at a pre-emption Slurm queues it again itself."""
    answer(project, srun=["0 on for 1" if number == signal.SIGTERM else "0 on for 30"])
    process = subprocess.Popen(
        [project / "launch" / "slurm.sh", "in-job", *TRAIN[1:]],
        cwd=project,
        env=environment(project, SLURM_JOB_ID="9"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "on\n"
    process.send_signal(number)
    assert process.wait(timeout=20) == 0, process.stderr.read()
    again = [["scontrol", "requeue", "9"]] if number == signal.SIGUSR1 else []
    assert calls(project)[1:] == again


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--nodes=0", *TRAIN), "--nodes='0' must be"),
        (("--gpus-per-node=two", *TRAIN), "--gpus-per-node='two' must be"),
        (("--ntasks=3", *TRAIN), "--ntasks=3 is set by this script"),
        (("gpu", *TRAIN), "'gpu' is no --FLAG=VALUE"),
        (("--nodes=1", "--", TRAIN[1]), "needs its --workdir"),
    ],
)
def test_a_wrong_flag_of_slurm_is_one_line(project, flags, words):
    done = run(project, "slurm.sh", *flags)
    assert done.returncode == 1 and not calls(project)
    assert len(done.stderr.splitlines()) == 1 and words in done.stderr


def test_an_extra_is_installed_once_and_remembered(project):
    python = project.parent / "python"
    python.write_text(
        '#!/bin/sh\necho "$@" >> "$ASKED"\ncp "$0" .venv/bin/python 2>/dev/null || true\n'
    )
    python.chmod(0o755)
    more = {"PYTHON": str(python), "ASKED": str(project.parent / "asked")}
    (project / ".venv" / "extra.txt").unlink()

    def installed(**extra):
        Path(more["ASKED"]).write_text("")
        assert run(project, "local.sh", "true", **more, **extra).returncode == 0
        return [x for x in Path(more["ASKED"]).read_text().splitlines() if "uv pip install" in x]

    end = "-r requirements.txt"
    assert installed() == []
    assert [x.endswith(f"{end} jax[tpu]") for x in installed(EXTRA="jax[tpu]")] == [True]
    assert installed(EXTRA="jax[tpu]") == installed() == []
    (project / "requirements.txt").write_text("numpy\nscipy\n")
    assert [x.endswith(f"{end} jax[tpu]") for x in installed()] == [True]
    assert [x.endswith(end) for x in installed(EXTRA="")] == [True]
    assert installed() == []


def test_the_skypilot_task():
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    known = {"name", "num_nodes", "resources", "workdir", "envs", "file_mounts", "setup", "run"}
    assert set(task) == known
    assert set(task["resources"]) == {"accelerators", "use_spot", "disk_size"}
    assert "./launch/local.sh" in task["setup"] and task["envs"]["BUCKET"] is None
    assert task["file_mounts"]["/datasets"]["source"].startswith("gs://${BUCKET}")


@pytest.mark.parametrize("nodes", [1, 3])
def test_what_a_skypilot_node_runs(project, nodes):
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    (project / "launch" / "local.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    sky = {
        "SKYPILOT_NODE_IPS": "\n".join(f"10.0.0.{i}" for i in range(1, nodes + 1)),
        "SKYPILOT_NUM_NODES": str(nodes),
        "SKYPILOT_NODE_RANK": str(nodes - 1),
    }
    values = {**os.environ, **task["envs"], "BUCKET": "mine", **sky}
    done = subprocess.run(
        ["bash", "-c", task["run"]], cwd=project, env=values, capture_output=True, text=True
    )
    group = ["--coordinator=10.0.0.1:12345", "--process_count=3", "--process_id=2"]
    assert done.stdout.splitlines() == [
        *("python", "-m", "emanet_jax.main", "--config=configs/nyuv2.py"),
        "--workdir=gs://mine/runs/nyuv2",
        *(group if nodes == 3 else []),
        "--config.data.manual_dir=/datasets",
    ]


def test_shellcheck_finds_nothing():
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    scripts = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
    assert len(scripts) >= 5
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, "-x", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    for part in ("setup", "run"):
        checked = subprocess.run(
            [shellcheck, "-s", "bash", "-"], input=task[part], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout
