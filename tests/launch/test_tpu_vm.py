"""launch/tpu_vm.sh, with a gcloud that notes what it is asked."""

import os
import shlex
import shutil
import signal
import subprocess

import pytest

from tests.launch.programs import (
    PLACE,
    TRAIN,
    VM,
    answer,
    calls,
    command,
    environment,
    run,
    verbs,
    without_git,
)

ABSENT = "1 ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource was not found."
DELETE = "./launch/tpu_vm.sh delete --name=ema --zone=us-central2-b"


def test_a_vm_is_made_installed_started_and_followed(project):
    answer(project, describe=[ABSENT], running=["1 "], status=["0 0"])
    (project / "configs" / "mine.py").write_text("changed = True\n")
    done = run(project, "tpu_vm.sh", "run", *VM, "--project=mine", "--spot", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert verbs(project) == ["describe", "create", "ssh", "scp", *["ssh"] * 5]
    _, create, _, copy, *on_workers = calls(project)
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    place = ["--zone=us-central2-b", "--project=mine", "--quiet"]
    version = "--version=tpu-ubuntu2204-base"
    assert create == [*vm, "create", "ema", *place, "--accelerator-type=v4-8", version, "--spot"]
    assert [*copy[:5], *copy[6:]] == [*vm, "scp", "ema:emanet_jax.tar.gz", *place, "--worker=all"]
    with subprocess.Popen(["tar", "-xzOf", copy[5], "configs/mine.py"], stdout=-1) as tar:
        assert tar.stdout.read() == b"changed = True\n"  # not committed, and copied all the same
    workers = [next(word for word in call if "--worker" in word) for call in on_workers]
    assert workers == [*["--worker=all"] * 3, *["--worker=0"] * 2]
    assert 'EXTRA="jax[tpu]"' in command(project, "local.sh true")
    assert "--distributed=auto" in command(project, "nohup")
    assert (
        f"the run is done; ema costs until it is deleted ({DELETE} --project=mine)" in done.stderr
    )
    assert subprocess.run(["git", "diff", "--quiet"], cwd=project, env=without_git()).returncode


def test_each_step_can_be_taken_alone(project):
    answer(project, describe=[ABSENT], running=["1 "], status=["0 0"])
    for action, flags, expected in (
        ("create", VM, ["describe", "create"]),
        ("install", PLACE, ["ssh", "scp", "ssh", "ssh"]),
        ("start", (*PLACE, *TRAIN), ["ssh", "ssh"]),
        ("follow", PLACE, ["ssh", "ssh"]),
        ("delete", PLACE, ["delete"]),
    ):
        done = run(project, "tpu_vm.sh", action, *flags)
        assert done.returncode == 0, done.stderr
        assert verbs(project) == expected
        (project.parent / "calls").unlink()


def test_what_runs_on_a_worker(project, tmp_path):
    """The commands for the workers, run here: arguments arrive whole, and the status is kept."""
    answer(project, describe=["0 READY"], running=["1 "], status=["0 0"])
    odd = ("--config.data.data_dir=a 'b\" $HOME*\n", "", "\n")
    assert run(project, "tpu_vm.sh", "run", *VM, *TRAIN, *odd).returncode == 0
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(next(c[5] for c in calls(project) if "scp" in c), home / "emanet_jax.tar.gz")
    unpack, start = command(project, "tar -xzf"), command(project, "nohup")
    follow, status = command(project, "tail -n"), command(project, "cat emanet_jax/run.status")
    running = command(project, "kill -0")

    def on_worker(words, **options):
        return subprocess.run(
            ["bash", "-c", words], cwd=home, capture_output=True, text=True, timeout=60
        )

    assert on_worker(unpack).returncode == 0
    assert on_worker(status).returncode and on_worker(running).returncode
    for left in (3, 0, 75):
        script = f'#!/bin/sh\nsleep 0.3\nprintf "%s|" "$@"\necho the end\nexit {left}\n'
        (home / "emanet_jax" / "launch" / "local.sh").write_text(script)
        assert on_worker(start).returncode == 0
        assert on_worker(running).returncode == 0
        words = ("python", "-m", "emanet_jax.main", "--distributed=auto", *TRAIN[1:], *odd)
        shown = on_worker(follow).stdout
        assert shown == "".join(f"{word}|" for word in words) + "the end\n"
        assert on_worker(status).stdout == f"{left}\n"
        assert on_worker(running).returncode


@pytest.mark.parametrize(
    "status, words",
    [(0, "the run is done"), (75, "the same command goes on"), (3, "failed with exit status 3")],
)
def test_follow_ends_with_the_status_of_the_run(project, status, words):
    answer(project, follow=["255 Connection closed"], status=[f"0 {status}"])
    done = run(project, "tpu_vm.sh", "follow", *PLACE)
    assert done.returncode == status
    assert words in done.stderr.splitlines()[-1]
    assert f"ema costs until it is deleted ({DELETE})" in done.stderr


def test_a_dropped_connection_is_no_end_of_the_run(project):
    answer(project, follow=["255 Connection closed"], status=["1 cat: no such file"])
    done = run(project, "tpu_vm.sh", "follow", *PLACE)
    assert done.returncode == 1
    assert "or its run goes on; follow it again (./launch/tpu_vm.sh follow" in done.stderr


def test_a_vm_that_is_there_is_used_again(project):
    answer(project, describe=["0 READY"], running=["1 "], status=["0 0"])
    done = run(project, "tpu_vm.sh", "run", *VM, *TRAIN)
    assert done.returncode == 0 and "ema is there already" in done.stderr
    assert "create" not in verbs(project) and "scp" in verbs(project)


def test_a_run_that_is_going_on_is_followed_and_not_written_over(project):
    answer(project, describe=["0 READY"], status=["0 0"])
    done = run(project, "tpu_vm.sh", "run", *VM, *TRAIN)
    assert done.returncode == 0 and "this follows it" in done.stderr
    assert verbs(project) == ["describe", "ssh", "ssh", "ssh"]
    for action, words in (("install", ()), ("start", TRAIN)):
        done = run(project, "tpu_vm.sh", action, *PLACE, *words)
        assert done.returncode == 1 and "a run is going on on ema" in done.stderr
    assert "scp" not in verbs(project)


def test_a_vm_in_another_state_is_left_alone(project):
    answer(project, describe=["0 PREEMPTED"])
    done = run(project, "tpu_vm.sh", "run", *VM, *TRAIN)
    assert done.returncode == 1 and "ema is PREEMPTED" in done.stderr and DELETE in done.stderr
    assert verbs(project) == ["describe"]


def test_the_copy_waits_for_ssh(project):
    answer(project, running=["1 "], scp=["255 refused", "255 refused", "0 "])
    assert run(project, "tpu_vm.sh", "install", *PLACE).returncode == 0
    assert verbs(project).count("scp") == 3
    answer(project, scp=["255 refused"])
    done = run(project, "tpu_vm.sh", "install", *PLACE)
    assert done.returncode == 1 and "cannot be copied to ema" in done.stderr


@pytest.mark.parametrize("asked", ["create", "ssh"])
def test_when_gcloud_fails_its_status_and_one_line(project, asked):
    answer(project, describe=[ABSENT], running=["1 "], **{asked: ["7 ERROR: quota"]})
    done = run(project, "tpu_vm.sh", "run", *VM, *TRAIN)
    assert done.returncode == 7
    ours = [line for line in done.stderr.splitlines() if line.startswith("launch/") and "7" in line]
    assert len(ours) == 1 and f"compute tpus tpu-vm {asked} ema" in ours[0]


def test_ctrl_c_leaves_the_run_and_says_how_to_go_on(project):
    answer(project, follow=["0 on for 30"])
    process = subprocess.Popen(
        [project / "launch" / "tpu_vm.sh", "follow", *PLACE],
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal does it: the signal reaches all of them
    )
    assert process.stdout.readline() == "on\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"the run goes on (./launch/tpu_vm.sh follow {' '.join(PLACE)} shows it again)" in err
    assert DELETE in err


def test_dry_run_prints_what_is_done(project):
    flags = ("run", *VM, "--project=mine", "--spot")
    printed = run(project, "tpu_vm.sh", *flags, "--dry-run", *TRAIN)
    assert printed.returncode == 0 and not calls(project), printed.stderr
    pasted = subprocess.run(["bash", "-e"], input=printed.stdout, text=True, cwd=project,
                            env=environment(project))  # fmt: skip
    assert pasted.returncode == 0
    shown = calls(project)
    (project.parent / "calls").unlink()
    answer(project, describe=[ABSENT], running=["1 "], status=["0 0"])
    assert run(project, "tpu_vm.sh", *flags, *TRAIN).returncode == 0
    questions = ("value(state)", "kill -0", "cat emanet_jax/run.status")
    assert [c for c in calls(project) if not any(x in c[-1] for x in questions)] == shown
    (project.parent / "calls").unlink()
    for action in ("follow", "delete"):
        printed = run(project, "tpu_vm.sh", action, *PLACE, "--dry-run").stdout
        assert len(printed.splitlines()) == 1 and shlex.split(printed)[0] == "gcloud"
    assert not calls(project)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "'' is none of create, install, start, follow, delete, run"),
        (("run", "--name=Ema", *VM[1:], *TRAIN), "--name='Ema' must be"),
        (("run", PLACE[0], "--zone=us-central2", "--type=v4-8", *TRAIN), "us-central2-b"),
        (("create", *PLACE, "--type=v9-8"), "--type='v9-8' has no known"),
        (("start", *PLACE, "--", TRAIN[1]), "needs its --workdir"),
        (("start", *PLACE, *TRAIN[1:]), "stand behind --"),
        (("follow", *PLACE, "--spot"), "'--spot' is no flag of follow"),
        (("run", *VM, "hps"), "'hps' is no flag"),
    ],
)
def test_a_wrong_flag_is_one_line_and_asks_nothing(project, arguments, words):
    done = run(project, "tpu_vm.sh", *arguments)
    assert done.returncode == 1 and done.stdout == "" and not calls(project)
    assert len(done.stderr.splitlines()) == 1 and words in done.stderr
