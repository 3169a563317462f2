"""launch/slurm.sh, skypilot.yaml, and the style of all scripts of launch/."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.launch.programs import TRAIN, answer, calls, environment, run

JOB = {"SLURM_JOB_ID": "9", "SLURM_NTASKS_PER_NODE": "4", "SLURM_GPUS_ON_NODE": "4"}


def test_a_job_starts_a_process_a_task_and_gives_its_status(project):
    answer(project, srun=["5 "])
    done = run(project, "slurm.sh", *TRAIN[1:], cwd=project, **JOB)
    assert done.returncode == 5, done.stderr
    words = ["python", "-m", "emanet_jax.main", "--distributed=auto", *TRAIN[1:]]
    # One that has saved and exits with 75 must not end the others.
    assert calls(project) == [["srun", "--kill-on-bad-exit=0", "./launch/local.sh", *words]]


def test_slurm_is_asked_to_warn_and_to_queue_again():
    lines = (ROOT / "launch" / "slurm.sh").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert {"--signal=B:USR1@120", "--requeue", "--open-mode=append"} < asked
    assert [line.startswith("#") for line in lines[: len(asked) + 1]] == [True] * (len(asked) + 1)


@pytest.mark.parametrize(
    ("number", "status", "again"),
    [(signal.SIGUSR1, 75, True), (signal.SIGUSR1, 1, False), (signal.SIGTERM, 75, False)],
)
def test_a_job_that_saved_when_its_time_was_up_is_queued_again(project, number, status, again):
    """A job that fails or is cancelled is not; at a pre-emption Slurm queues it again itself."""
    seconds = 30 if number == signal.SIGUSR1 else 1  # scancel signals the processes itself
    answer(project, srun=[f"{status} on for {seconds}"])
    process = subprocess.Popen(
        [project / "launch" / "slurm.sh", *TRAIN[1:]],
        cwd=project,
        env=environment(project, **JOB, ON_TERM=str(status)),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "on\n"
    process.send_signal(number)
    assert process.wait(timeout=20) == status, process.stderr.read()
    assert calls(project)[1:] == ([["scontrol", "requeue", "9"]] if again else [])


@pytest.mark.parametrize(
    ("job", "cwd", "words"),
    [
        ({}, "", "this is a job: sbatch"),
        (JOB, "/", "is not the project's root"),
        ({**JOB, "SLURM_NTASKS_PER_NODE": "1"}, "", "--ntasks-per-node=1 must be the 4 GPUs"),
    ],
)
def test_a_wrong_job_is_one_line(project, job, cwd, words):
    done = run(project, "slurm.sh", *TRAIN[1:], cwd=cwd or project, **job)
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

    end = "-r requirements.txt -c constraints.txt"
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
    assert set(task["resources"]) == {"accelerators", "use_spot", "disk_size", "job_recovery"}
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [os.EX_TEMPFAIL]}
    assert "./launch/local.sh" in task["setup"] and task["envs"]["BUCKET"] is None
    assert task["file_mounts"]["/datasets"]["source"].startswith("gs://${BUCKET}")


def skypilot(project, nodes=1, **envs):
    """The run of the last of some nodes; it prints the words that it starts, each with a |."""
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    (project / "launch" / "local.sh").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    sky = {
        "SKYPILOT_NODE_IPS": "\n".join(f"10.0.0.{i}" for i in range(1, nodes + 1)),
        "SKYPILOT_NUM_NODES": str(nodes),
        "SKYPILOT_NODE_RANK": str(nodes - 1),
    }
    values = {**os.environ, **task["envs"], "BUCKET": "mine", **sky, **envs}
    return subprocess.run(
        ["bash", "-c", task["run"]], cwd=project, env=values, capture_output=True, text=True
    )


@pytest.mark.parametrize("nodes", [1, 3])
def test_what_a_skypilot_node_runs(project, nodes):
    done = skypilot(project, nodes)
    group = ["--coordinator=10.0.0.1:12345", "--process_count=3", "--process_id=2"]
    assert done.stdout.split("|")[:-1] == [
        *("python", "-m", "emanet_jax.main", "--config=configs/nyuv2.py"),
        "--workdir=gs://mine/runs/nyuv2",
        *(group if nodes == 3 else []),
        "--config.data.manual_dir=/datasets",
    ]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("", []),
        ("--a=1  --b=*\n--c=$HOME", ["--a=1", "--b=*", "--c=$HOME"]),
        ("--a=\"('depth',)\" --d='a  b' --e=a\\ b", ["--a=('depth',)", "--d=a  b", "--e=a b"]),
    ],
)
def test_the_arguments_of_a_skypilot_task_arrive_as_a_shell_reads_them(project, written, words):
    done = skypilot(project, ARGUMENTS=written)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("|")[5:-1] == words


def test_arguments_that_are_not_quoted_to_their_end_start_nothing(project):
    done = skypilot(project, ARGUMENTS="--config.data.manual_dir='/my data")
    assert done.returncode == 1 and done.stdout == "" and "unmatched single quote" in done.stderr


def test_shellcheck_finds_nothing():
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    scripts = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
    assert len(scripts) == 4
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, "-x", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    for part in ("setup", "run"):
        checked = subprocess.run(
            [shellcheck, "-s", "bash", "-"], input=task[part], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout
