"""launch/tpu_vm.sh, with a gcloud that notes what it is asked."""

import os
import shlex
import shutil
import signal
import subprocess

import pytest

from tests.conftest import ROOT
from tests.launch.programs import (
    ABSENT,
    PLACE,
    TRAIN,
    VM,
    answer,
    calls,
    commands,
    environment,
    run,
    verbs,
    without_git,
)


def test_a_vm_is_made_used_followed_and_deleted(project):
    answer(project, describe=[ABSENT, "0 CREATING", "0 READY"], status=["0 0"])
    (project / "configs" / "mine.py").write_text("changed = True\n")
    done = run(project, "tpu_vm.sh", *VM, "--project=mine", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert verbs(project) == ["create", "scp", "ssh", "ssh", "ssh", "ssh", "ssh", "delete"]
    asked = [call for call in calls(project) if call[4] != "describe"]
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    place = ["--zone=us-central2-b", "--project=mine", "--quiet"]
    version = "--version=tpu-ubuntu2204-base"
    assert asked[0] == [*vm, "create", "ema", *place, "--accelerator-type=v4-8", version]
    assert asked[1][:5] == [*vm, "scp"]
    assert asked[1][6:] == ["ema:emanet_jax.tar.gz", *place, "--worker=all"]
    with subprocess.Popen(["tar", "-xzOf", asked[1][5], "configs/mine.py"], stdout=-1) as tar:
        assert tar.stdout.read() == b"changed = True\n"  # not committed, and copied all the same
    assert all("--worker=all" in call for call in asked[2:5])
    unpack, install, start, follow = commands(project)
    assert "tar -xzf" in unpack and 'EXTRA="jax[tpu]"' in install
    assert "nohup" in start and "--distributed=auto" in start and "run.log" in follow
    assert asked[-1] == [*vm, "delete", "ema", *place]
    assert "which costs until it is deleted: ./launch/tpu_vm.sh delete --name=ema" in done.stderr
    assert subprocess.run(["git", "diff", "--quiet"], cwd=project, env=without_git()).returncode


def test_what_runs_on_a_worker(project, tmp_path):
    """The commands for the workers, run here: arguments arrive whole, and the status is kept."""
    answer(project, describe=["0 READY"], status=["0 none", "0 0"])
    assert run(project, "tpu_vm.sh", *VM, *TRAIN).returncode == 0
    unpack, _, start, follow = commands(project)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(next(c[5] for c in calls(project) if "scp" in c), home / "emanet_jax.tar.gz")
    here = {"cwd": home, "capture_output": True, "text": True, "timeout": 60}
    assert subprocess.run(["sh", "-c", unpack], **here).returncode == 0
    status = next(w for c in calls(project) for w in c if "cat run.status" in w)
    status = ["sh", "-c", status.removeprefix("--command=")]
    assert subprocess.run(status, **here).stdout == "none\n"
    for said, left, expected in (
        ("the end", 3, "3"),
        ("the end", 0, "0"),
        ("Stopped by SIGTERM at step 3/9: run again to go on.", 0, "stopped"),
    ):
        script = f'#!/bin/sh\nprintf "%s|" "$@"\necho "{said}"\nexit {left}\n'
        (home / "emanet_jax" / "launch" / "local.sh").write_text(script)
        assert subprocess.run(["sh", "-c", start], **here).returncode == 0
        words = ("python", "-m", "emanet_jax.main", "--distributed=auto", *TRAIN[1:])
        shown = subprocess.run(["sh", "-c", follow], **here).stdout
        assert shown == "".join(f"{word}|" for word in words) + said + "\n"
        subprocess.run(
            ["sh", "-c", "until [ -s emanet_jax/run.status ]; do sleep 0.01; done"], **here
        )
        assert subprocess.run(status, **here).stdout == expected + "\n"
    # What a stopped run is known by.
    assert ": run again to go on." in (ROOT / "emanet_jax" / "train.py").read_text()


def test_a_ready_vm_is_reused_and_kept(project):
    answer(project, describe=["0 READY"], status=["0 none", "0 0"])
    done = run(project, "tpu_vm.sh", *VM, *TRAIN)
    assert done.returncode == 0
    assert verbs(project) == ["ssh", "scp", "ssh", "ssh", "ssh", "ssh", "ssh"]
    assert "goes on costing until you delete it: ./launch/tpu_vm.sh delete" in done.stderr


@pytest.mark.parametrize("flags", [("--keep", *TRAIN), (*TRAIN[:2], "--workdir=runs/on_the_vm")])
def test_a_vm_is_kept_with_keep_and_where_it_holds_the_run(project, flags):
    answer(project, describe=[ABSENT, "0 READY"], status=["0 0"])
    done = run(project, "tpu_vm.sh", *VM, *flags)
    assert done.returncode == 0 and "delete" not in verbs(project)
    assert "goes on costing" in done.stderr


def test_a_run_that_is_going_on_is_followed(project):
    answer(project, describe=["0 READY"], status=["0 running", "0 running", "0 0"])
    done = run(project, "tpu_vm.sh", *VM, *TRAIN)
    assert done.returncode == 0 and "scp" not in verbs(project)
    assert [c for c in commands(project) if "tail -n +1" not in c] == []
    assert len(commands(project)) == 2  # the connection dropped once
    assert "this follows it" in done.stderr


def test_a_queued_resource(project):
    waiting = ["0 WAITING_FOR_RESOURCES", "0 PROVISIONING"]
    answer(project, describe=[ABSENT, *waiting, "0 ACTIVE"], status=["0 0"])
    done = run(project, "tpu_vm.sh", *VM, "--queued", "--spot", *TRAIN)
    assert done.returncode == 0, done.stderr
    first, *_, last = (call for call in calls(project) if call[4] != "describe")
    assert first[3:6] == ["queued-resources", "create", "ema"]
    wanted = {"--node-id=ema", "--runtime-version=tpu-ubuntu2204-base", "--spot"}
    assert wanted < set(first) and "--accelerator-type=v4-8" in first
    assert last[3:6] == ["queued-resources", "delete", "ema"] and "--force" in last
    questions = [call for call in calls(project) if call[4] == "describe"]
    assert all("--format=value(state.state)" in call for call in questions)
    assert all(c[3] == "tpu-vm" for c in calls(project) if c[4] in ("ssh", "scp"))


@pytest.mark.parametrize("stopped", [(), ("0 stopped", "0 stopped")])
def test_a_spot_vm_comes_back_and_the_run_goes_on(project, stopped):
    """Whether the run was killed or had the time to save and end."""
    gone = ["0 PREEMPTED", "0 PREEMPTED", ABSENT, ABSENT, ABSENT, "0 READY"]
    answer(
        project,
        describe=[ABSENT, "0 READY", *(["0 READY"] * len(stopped)), *gone],
        create=["0 ", "1 ERROR: there is no more capacity in the zone", "0 "],
        follow=["255 Connection closed", "0 "],
        status=[*stopped, "0 0"],
    )
    done = run(project, "tpu_vm.sh", *VM, "--spot", *TRAIN)
    assert done.returncode == 0, done.stderr
    made = [verb for verb in verbs(project) if verb in ("create", "delete", "scp")]
    assert made == ["create", "scp", "delete", "create", "create", "scp", "delete"]
    assert all("--spot" in call for call in calls(project) if call[4] == "create")
    starts = [command for command in commands(project) if "nohup" in command]
    assert len(starts) == 2 and starts[0] == starts[1]
    assert "the run goes on from gs://bucket/run" in done.stderr


def test_without_spot_a_vm_that_was_lost_is_said_and_left(project):
    answer(project, describe=[ABSENT, "0 READY", "0 TERMINATED"])
    done = run(project, "tpu_vm.sh", *VM, *TRAIN)
    assert done.returncode == 1 and "ema is TERMINATED" in done.stderr
    assert "delete" not in verbs(project)
    answer(project, describe=["0 TERMINATED"])
    done = run(project, "tpu_vm.sh", *VM, *TRAIN)
    assert done.returncode == 1 and "must be deleted before" in done.stderr


def test_a_vm_that_somebody_deleted_is_not_made_again(project):
    answer(project, describe=[ABSENT, "0 READY", ABSENT])
    done = run(project, "tpu_vm.sh", *VM, "--spot", *TRAIN)
    assert done.returncode == 1 and "somebody deleted it" in done.stderr
    assert verbs(project).count("create") == 1


def test_a_failed_run_gives_its_exit_status_and_keeps_the_vm(project):
    answer(project, describe=[ABSENT, "0 READY"], status=["0 3"])
    done = run(project, "tpu_vm.sh", *VM, "--spot", *TRAIN)
    assert done.returncode == 3 and "delete" not in verbs(project)
    assert "failed with exit status 3" in done.stderr.splitlines()[-1]
    assert "goes on costing until you delete it" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("asked", "there"), [("create", False), ("ssh", True)])
def test_when_gcloud_fails_its_status_and_one_line(project, asked, there):
    answer(project, describe=[ABSENT, "0 READY"], **{asked: ["7 ERROR: quota"]})
    done = run(project, "tpu_vm.sh", *VM, *TRAIN)
    assert done.returncode == 7
    ours = [line for line in done.stderr.splitlines() if line.startswith("launch/") and "7" in line]
    assert len(ours) == 1 and f"compute tpus tpu-vm {asked} ema" in ours[0]
    assert ("goes on costing" in ours[0]) == there


def test_when_gcloud_cannot_be_asked(project):
    answer(project, describe=["2 ERROR: you are not logged in."])
    done = run(project, "tpu_vm.sh", *VM, *TRAIN)
    assert done.returncode == 2 and verbs(project) == []
    line = "launch/tpu_vm.sh: gcloud cannot describe ema: ERROR: you are not logged in.\n"
    assert done.stderr == line


def test_a_vm_that_never_gets_ready_is_given_up(project):
    answer(project, describe=[ABSENT, "0 CREATING"])
    done = run(project, "tpu_vm.sh", *VM, "--wait=0", *TRAIN)
    assert done.returncode == 1 and "ema is CREATING after 0 minutes" in done.stderr


def test_ctrl_c_leaves_the_run_and_says_how_to_go_on(project):
    answer(project, describe=["0 READY"], status=["0 running"], follow=["0 on for 30"])
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
    assert "./launch/tpu_vm.sh follow --name=ema --zone=us-central2-b shows it again" in err
    assert "./launch/tpu_vm.sh delete --name=ema --zone=us-central2-b ends both" in err


def test_what_dry_run_prints_is_what_is_done(project):
    flags = (*VM, "--project=mine", "--spot")
    printed = run(project, "tpu_vm.sh", *flags, "--dry-run", *TRAIN)
    assert printed.returncode == 0 and not calls(project), printed.stderr
    pasted = subprocess.run(["bash", "-e"], input=printed.stdout, text=True, cwd=project,
                            env=environment(project))  # fmt: skip
    assert pasted.returncode == 0
    shown = calls(project)
    (project.parent / "calls").unlink()
    answer(project, describe=[ABSENT, "0 READY"], status=["0 0"])
    assert run(project, "tpu_vm.sh", *flags, *TRAIN).returncode == 0
    done = [c for c in calls(project) if c[4] != "describe" and "cat run.status" not in c[-1]]
    archive = next(c for c in done if "scp" in c)[5]
    assert [[w.replace(archive, "emanet_jax.tar.gz") for w in c] for c in done] == shown
    (project.parent / "calls").unlink()
    for action in ("follow", "delete"):
        printed = run(project, "tpu_vm.sh", action, *PLACE, "--dry-run").stdout
        assert len(printed.splitlines()) == 1 and shlex.split(printed)[0] == "gcloud"
    assert not calls(project)


FAULTS = {
    "a capital": (("--name=Ema", *VM[1:], *TRAIN), "--name='Ema' must be"),
    "an option for a name": (("--name=-x", *VM[1:], *TRAIN), "--name='-x' must be"),
    "no zone": ((PLACE[0], "--type=v4-8", *TRAIN), "--zone='' must be"),
    "a region": ((PLACE[0], "--zone=us-central2", "--type=v4-8", *TRAIN), "us-central2-b"),
    "no type": ((*PLACE, *TRAIN), "--type='' must be"),
    "an unknown type": ((*PLACE, "--type=v9-8", *TRAIN), "give --version="),
    "no workdir": ((*VM, "--", TRAIN[1]), "needs its --workdir"),
    "spot on its disk": ((*VM, "--spot", *TRAIN[:2], "--workdir=runs/x"), "needs --workdir=gs:"),
    "a config that git does not know": ((*VM, "--", "--config=new.py", TRAIN[2]), "git add new.py"),
    "half a minute": ((*VM, "--wait=0.5", *TRAIN), "--wait='0.5' must be"),
    "an unknown flag": ((*VM, "--sport", *TRAIN), "'--sport' is no flag"),
    "no --": ((*VM, *TRAIN[1:]), "stand behind --"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_flag_is_one_line_and_asks_nothing(project, name):
    flags, words = FAULTS[name]
    done = run(project, "tpu_vm.sh", *flags)
    assert done.returncode == 1 and done.stdout == "" and not calls(project)
    assert len(done.stderr.splitlines()) == 1 and words in done.stderr
