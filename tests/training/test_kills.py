"""Runs that are stopped or killed at any moment go on and end in the same bits, on CPUs."""

import contextlib
import os
import random
import shutil
import signal
import threading
import time

import pytest

from emanet_jax.training import workdir
from tests.commands import (
    CHEAP,
    assert_same_metrics,
    assert_same_state,
    last_state,
    run,
    saved_steps,
    start,
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


def arguments(directory, data_dir, epochs=3):
    return (
        *CHEAP,
        f"--workdir={directory}",
        f"--config.data.data_dir={data_dir}",
        f"--config.epochs={epochs}",
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A run of 12 steps that nobody disturbed."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    status, _, err = run(*arguments(directory, data_dir))
    assert status == 0, err
    return directory


class Lines:
    """The lines of a process as they come, read in the background so that nobody waits."""

    def __init__(self, process):
        self.lines = []
        self._thread = threading.Thread(target=self._read, args=[process.stdout], daemon=True)
        self._thread.start()

    def _read(self, stream):
        self.lines.extend(stream)  # extends line by line

    def last_step(self):
        steps = [line.split("/")[0].split()[1] for line in self.lines if line.startswith("step ")]
        return int(steps[-1]) if steps else 0

    def wait(self, condition, process):
        """Until the condition holds or the process has ended."""
        while process.poll() is None and not condition():
            time.sleep(0.002)

    def all(self):
        self._thread.join()
        return "".join(self.lines)


def kill(args, directory, moment, rng):
    """Starts a run and kills it at a random moment of a kind; what it printed."""
    process = start(*args, merge=True)
    lines = Lines(process)
    if moment == "start":  # imports, data, compilation, restoring
        time.sleep(rng.uniform(0, 10))
    else:
        lines.wait(lambda: lines.last_step() > 0, process)
        steps = lines.last_step() + rng.randrange(2, 5)
        lines.wait(lambda: lines.last_step() >= steps, process)
        if moment == "save":
            unfinished = (directory / workdir.CHECKPOINTS).glob
            lines.wait(lambda: any(unfinished("*.orbax-checkpoint-tmp")), process)
            time.sleep(rng.uniform(0, 0.1))
        else:
            time.sleep(rng.uniform(0, 0.5))
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()
    return lines


def going_on(directory, step):
    return f"Going on from {directory}/checkpoints/{step}." if step else "Compiling"


def survive(directory, data_dir, moments, seed, epochs, saved=0):
    """Kills a run at moments of these kinds, then lets it finish."""
    args, rng = arguments(directory, data_dir, epochs), random.Random(seed)
    for moment in moments:
        lines = kill(args, directory, moment, rng)
        out, reached = lines.all(), lines.last_step()
        assert not reached or going_on(directory, saved) in out
        exists = (directory / workdir.CHECKPOINTS).exists()
        steps = saved_steps(directory) if exists else []
        # A save goes on while the next step is trained, so two steps may be lost, but no more.
        assert max(steps, default=0) >= max(saved, reached - 2), out
        saved = max(steps, default=0)
    status, out, err = run(*args)
    assert status == 0, err
    assert going_on(directory, saved) in out
    assert not (directory / "damaged").exists()


@pytest.mark.slow
def test_killed_at_twenty_random_moments_a_run_ends_in_the_same_bits(tmp_path, data_dir):
    moments = ["save", "step", "start", "save"] * 6
    survive(tmp_path / "killed", data_dir, moments, seed=2, epochs=18)
    status, _, err = run(*arguments(tmp_path / "quiet", data_dir, epochs=18))
    assert status == 0, err
    assert_same_state(tmp_path / "killed", tmp_path / "quiet")
    assert_same_metrics(tmp_path / "killed", tmp_path / "quiet")


def test_stopped_in_an_evaluation_and_killed_three_times_a_run_ends_in_the_same_bits(
    finished, tmp_path, data_dir
):
    directory = tmp_path / "run"
    process = start(*arguments(directory, data_dir), merge=True)
    for line in process.stdout:
        if line.startswith("step  4/"):  # now it compiles the evaluation
            process.send_signal(signal.SIGTERM)
            break
    out, _ = process.communicate(timeout=300)
    assert process.returncode == os.EX_TEMPFAIL, out
    assert "Stopped by SIGTERM at step 4/12" in out and "evaluation" not in out
    survive(directory, data_dir, ["save", "start", "step"], seed=1, epochs=3, saved=4)
    assert_same_state(directory, finished)
    assert_same_metrics(directory, finished)


def test_a_full_disk_is_one_sentence_and_damages_nothing(finished, tmp_path, data_dir):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    args = (*arguments(directory, data_dir, epochs=4), "--allow_config_change")
    status, out, err = run(*args, largest_file=12_000)
    assert status == 1, out
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: --workdir={directory} cannot be written: File too large"), err
    assert_same_state(directory, finished)  # still the last one
    status, out, err = run(*args)
    assert status == 0, err
    assert "Going on from" in out and "damaged" not in out
    assert saved_steps(directory)[-1] == 16 and last_state(directory)
