"""Step times: arithmetic on hand-made calls, and one tiny run; nothing here looks at a clock."""

import csv
import gc
import math
import subprocess
import sys

import pytest

from benchmarks import step_times, step_times_report
from benchmarks.step_times_report import KINDS, Call, Step
from tests import tiny
from tests.conftest import ROOT

EVERY = {"evaluation": 2, "log": 3}
# Steps of 1 s. The second is queued behind the first; an evaluation of two batches follows it, with
# 0.5 s of other work before it and 0.25 s after it; the fourth waits for a log.
CALLS = [
    Call("train", 0.0, 1.0),
    Call("train", 0.1, 2.0),
    Call("eval", 2.5, 3.0),
    Call("eval", 2.6, 3.5),
    Call("train", 3.75, 4.75),
    Call("train", 5.0, 6.0),
]
STEPS = [
    Step("x", 1, 2, "", 1000, 0, 0),
    Step("x", 1, 3, "evaluation", 2750, 1000, 750),
    Step("x", 1, 4, "log", 1250, 0, 250),
]


@pytest.mark.parametrize(
    "step, every, kind",
    [
        (6, {"log": 3, "evaluation": 2}, "evaluation"),
        (3, {"log": 3, "evaluation": 2}, "log"),
        (5, {"log": 3, "evaluation": 2}, ""),
        (5, {}, ""),
        (20, dict.fromkeys(KINDS, 10), "evaluation"),
    ],
)
def test_a_pause_has_the_name_of_its_longest_part(step, every, kind):
    assert step_times_report.due(step, every) == kind


def test_times_go_from_end_to_end_and_part_into_steps_evaluation_and_waiting():
    found = step_times_report.steps_of(CALLS, "x", 1, EVERY)
    assert [x[:4] for x in found] == [x[:4] for x in STEPS]
    for ours, theirs in zip(found, STEPS, strict=True):
        assert ours[4:] == pytest.approx(theirs[4:], abs=1e-9)
    assert step_times_report.steps_of(CALLS, "x", 1, EVERY, skip=1) == found[1:]


def test_summary_keeps_pauses_apart():
    between = [Step("x", 1, k, "", 10.0 * k, 0, k) for k in range(1, 5)]
    row = step_times_report.summary("x", [*between, *STEPS[1:], STEPS[2]._replace(waiting_ms=350)])
    assert (row.steps, row.median_ms, row.max_ms) == (4, 25, 40)
    assert row.waiting == pytest.approx(0.1)
    assert row.pauses == {"evaluation": (1, 750, 750), "log": (2, 300, 350)}
    assert row.total_s == pytest.approx(5.35)
    assert row.evaluating == pytest.approx(1 / 5.35)
    assert row.pausing == pytest.approx(1.35 / 5.35)
    assert "log 2 x 300.0 (350.0)" in step_times_report.line(row)


def test_an_arm_without_a_step_between_has_no_numbers():
    row = step_times_report.summary("x", STEPS[1:])
    assert row.steps == 0 and math.isnan(row.median_ms)


def test_the_histogram_shows_every_step_and_no_pause():
    steps = [Step("a", 1, k, "", 10, 0, 0) for k in range(99)]
    steps += [Step("a", 1, 99, "", 1000, 0, 0), Step("a", 1, 100, "log", 1e6, 0, 0)]
    steps += [Step("b", 1, 1, "", 100, 0, 0)]
    axis, a, b = step_times_report.histogram(steps)
    assert axis.split() == ["ms", "10.0", "1001.0"]
    bars = a.split("|")[1]
    assert (bars[0], bars[-1], bars[1:-1].strip()) == ("█", "▁", "")
    assert b.split("|")[1].strip() == "█" and b.index("█") in (len(b) // 2 + 6, len(b) // 2 + 7)


def test_the_recorder_keeps_the_order_and_gives_results_on():
    waited = []

    class Array:
        def __init__(self, name):
            self.name = name

        def block_until_ready(self):
            waited.append(self.name)

    with step_times.Recorder() as recorder:
        train = recorder.watched("train", lambda name: (name, Array(name)), lambda x: x[1])
        evaluate = recorder.watched("eval", lambda name: Array(name), lambda x: x)
        assert train("a")[0] == "a"
        assert evaluate("b").name == "b"
        train("c")
    assert waited == ["a", "b", "c"]
    assert [call.kind for call in recorder.calls] == ["train", "eval", "train"]
    assert all(call.called <= call.done for call in recorder.calls)


def test_a_real_run_is_recorded_step_by_step(tmp_path, monkeypatch):
    config = tiny.get_config("model=hps,backbone=segnet_tiny").unlock()
    config.tasks, config.model.overrides = ("depth",), {}
    config.checkpoint.best_metric = "depth/rmse_m"
    config.data.data_dir = str(tmp_path / "records")
    freeze, frozen = gc.freeze, []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(freeze()))
    every = {"log": 2, "figure": 3, "checkpoint": 4, "evaluation": 5}
    steps = step_times.measure(config.lock(), ["everything"], tmp_path, 6, 1, every, skip=1)
    assert [x.step for x in steps] == [3, 4, 5, 6]
    assert [x.after for x in steps] == ["log", "figure", "checkpoint", "evaluation"]
    assert [x.evaluating_ms > 0 for x in steps] == [False, True, False, True]
    # After what compiles: the first step and the evaluations, of which the warm-up has two as well.
    assert len(frozen) == 6 and gc.get_freeze_count() == 0
    assert "step 6/6" in (tmp_path / "everything-1" / "output.txt").read_text()
    assert (tmp_path / "everything-1" / "figure.png").stat().st_size > 0

    step_times_report.write_csv(steps, tmp_path / "new" / "times.csv")
    with (tmp_path / "new" / "times.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(x["arm"], int(x["step"])) for x in rows] == [(x.arm, x.step) for x in steps]
    assert [float(x["ms"]) for x in rows] == pytest.approx([x.ms for x in steps], abs=1e-3)
    step_times_report.plot(steps, "title", tmp_path / "new" / "times.png")
    assert (tmp_path / "new" / "times.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "flag, sentence",
    [
        ("--arms=all", "--arms=all is unknown; choose from nothing, prefetch, "),
        ("--skip=210", "--steps=210 must be more than --skip=210 and one."),
        ("--picture=a.txt", "--picture=a.txt must end in .png, .pdf or .svg."),
        ("--workdir=tests", "--workdir=tests is there already; name a new folder."),
    ],
)
def test_wrong_flags_are_one_sentence(flag, sentence):
    command = [sys.executable, "-m", "benchmarks.step_times", flag]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {sentence}")
