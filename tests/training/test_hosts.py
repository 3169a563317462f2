"""Several processes train as one would, stop together and go on in other numbers."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from emanet_jax.errors import UserError
from emanet_jax.training import sharding
from tests.commands import CHEAP, last_state, rows, run, saved_steps, start
from tests.conftest import ROOT

STEPS = 12


def free_address():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


def start_hosts(count, *args, devices=1):
    """One process a host, each with `devices` devices."""
    join = f"--coordinator={free_address()}", f"--process_count={count}"
    return [
        start(*args, *join, f"--process_id={i}", devices=devices, merge=True) for i in range(count)
    ]


def finish(processes):
    """Exit statuses and outputs by process."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def when_at(process, step):
    """What the process prints until it has taken a step."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(f"step {step:>2}/"):
            return "".join(lines)
    pytest.fail("".join(lines))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir):
    """A run of one process on one device."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    status, _, err = run(*arguments(directory, data_dir))
    assert status == 0, err
    return directory


def arguments(directory, data_dir):
    return (
        *CHEAP,
        f"--workdir={directory}",
        f"--config.data.data_dir={data_dir}",
        # Floats are added in another order, which Adam's full-sized steps would blow up.
        "--config.optimizer.learning_rate=1e-6",
    )


def assert_equal_runs(directory, expected):
    """The same numbers at every step, but for the order in which floats were added."""
    ours, theirs = (
        {key: values for key, values in rows(d).items() if key[1] in ("train", "eval")}
        for d in (directory, expected)
    )
    assert list(ours) == list(theirs)
    for key, values in theirs.items():
        for name, value in values.items():
            if not name.endswith("_per_second"):
                rel = 2e-2 if name.endswith("grad_norm") else 1e-4
                assert ours[key][name] == pytest.approx(value, rel=rel), f"{name} at {key}"
    # Parameters, statistics and the moments, which sum up the gradients of all steps.
    a, b = last_state(directory), last_state(expected)
    assert a.keys() == b.keys() and any("mu" in name for name in a)
    for name, value in b.items():
        atol = 1e-2 * max(1e-2, np.abs(value).max())
        np.testing.assert_allclose(a[name], value, rtol=0, atol=atol, err_msg=name)


def test_two_hosts_equal_one_stop_together_and_go_on_alone(alone, tmp_path):
    args = arguments(tmp_path / "run", tmp_path / "records")  # built by one, the other waits
    processes = start_hosts(2, *args, devices=2)
    begun = when_at(processes[0], 6)
    processes[1].send_signal(signal.SIGTERM)
    statuses, outputs = finish(processes)
    assert statuses == [os.EX_TEMPFAIL] * 2, outputs
    assert "Stopped by a signal to another process at step " in outputs[0]
    # Either process may have built the records; the second one's lines are not shown.
    assert "".join([begun, *outputs]).count("Building ") <= 1
    assert len(list((tmp_path / "records").rglob("dataset_info.json"))) == 1
    assert "step " not in outputs[1]  # the first one speaks for all
    assert 6 <= saved_steps(tmp_path / "run")[-1] < STEPS
    status, out, err = run(*args, devices=4)
    assert status == 0, err
    assert "Going on from" in out
    assert_equal_runs(tmp_path / "run", alone)


@pytest.mark.slow
def test_four_hosts_equal_one_and_their_checkpoints_suit_any_number(alone, tmp_path, data_dir):
    args = arguments(tmp_path / "run", data_dir)
    processes = start_hosts(4, *args)
    when_at(processes[0], 5)
    processes[0].send_signal(signal.SIGTERM)
    statuses, outputs = finish(processes)
    assert statuses == [os.EX_TEMPFAIL] * 4, outputs
    assert "Stopped by SIGTERM at step " in outputs[0]
    for hosts, devices in ((1, 1), (2, 1), (4, 1)):
        copy = tmp_path / f"{hosts}x{devices}"
        shutil.copytree(tmp_path / "run", copy)
        statuses, outputs = finish(start_hosts(hosts, *arguments(copy, data_dir), devices=devices))
        assert statuses == [0] * hosts, outputs
        assert "Going on from" in outputs[0]
        assert_equal_runs(copy, alone)


@pytest.mark.slow
@pytest.mark.parametrize("dying", [1, 0])
def test_when_a_host_dies_the_others_say_so_in_one_line(tmp_path, data_dir, dying):
    args = (*arguments(tmp_path / "run", data_dir), "--config.epochs=20.0")
    processes = start_hosts(2, *args)
    when_at(processes[0], 2)
    processes[dying].send_signal(signal.SIGKILL)
    other = processes[1 - dying]
    try:
        out = other.communicate(timeout=180)[0]
        assert other.returncode == os.EX_TEMPFAIL
        *before, last = out.splitlines()
        assert last.startswith(f"error: process {dying} of this run is gone; start the same ")
        assert not any("Traceback" in x or "error" in x or "Fatal" in x for x in before), out
    finally:
        other.kill()


TOGETHER = """
import sys
from emanet_jax.errors import UserError
from emanet_jax.training import sharding

sharding.connect("off", sys.argv[1], 2, int(sys.argv[2]))
import jax

def refuse():
    raise UserError(f"process {jax.process_index()} says no")

print(sharding.on_first(lambda: [jax.process_index(), "first"]))
for wrong in (lambda: sharding.on_first(refuse), lambda: sharding.make_mesh(2)):
    try:
        wrong()
    except UserError as error:
        print(error)
"""


def test_what_the_first_process_finds_all_know():
    address = free_address()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, address, str(i)],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    statuses, outputs = finish(processes)
    assert statuses == [0, 0]
    for out in outputs:
        lines = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert lines[:2] == ["[0, 'first']", "process 0 says no"]
        assert lines[2].startswith("config.mesh.spatial is 2; it must divide the number of devices")


def test_half_of_an_address_is_one_sentence():
    with pytest.raises(UserError, match="--process_count and --process_id belong together"):
        sharding.connect("off", coordinator="localhost:1234")


def test_no_others_to_find_is_one_sentence(tmp_path):
    status, _, err = run("--distributed=auto", *arguments(tmp_path / "run", tmp_path))
    assert status == 1
    assert err.startswith("error: the processes of this run did not find each other"), err
    assert err.count("\n") == 1 and not (tmp_path / "run").exists()
