"""The benchmarks run, and what they write can be read; nothing here looks at a clock."""

import csv
import math
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import (
    balancing,
    cityscapes_step,
    ctal,
    ctal_report,
    input_pipeline,
    longest,
    memory,
    steps_measured,
)
from emanet_jax import models
from emanet_jax.models.affinity import IMPLEMENTATIONS
from tests import tiny
from tests.commands import CHEAP
from tests.conftest import ROOT
from tests.test_imports import HEAVY


def test_ctal_measures_every_implementation(tmp_path, capsys):
    rows = ctal.main(["--points=2x3x2x4,3x4x2x4x2", f"--out={tmp_path}"])
    assert [row.implementation for row in rows] == [*IMPLEMENTATIONS] * 2
    for row in rows:
        numbers = [x for x in row if isinstance(x, float)]
        assert len(numbers) == 8
        assert all(math.isfinite(x) and x >= 0 for x in numbers)
        assert max(row.value_error, row.gradient_error) < 2e-5
        assert row.train_gflop > row.forward_gflop > 0
    with (tmp_path / "ctal.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["pixels"] for row in table] == ["6"] * 3 + ["12"] * 3
    assert set(table[0]) == set(ctal.Row._fields)
    assert (tmp_path / "ctal.png").stat().st_size > 1000
    assert "2x3x2x4x1" in capsys.readouterr().out


def test_ctal_says_what_it_leaves_out(tmp_path, capsys):
    rows = ctal.main(["--points=2x3x2x4", "--budget_gib=0", f"--out={tmp_path}"])
    measured = {row.implementation for row in rows if math.isfinite(row.train_s)}
    assert measured == {"factorized"}
    assert "shifted      2x3x2: train left out" in capsys.readouterr().out


def test_exponent_is_the_slope_in_logarithms():
    rows = [
        ctal_report.Row("x", 1, p, 3, 128, 1, p, "x", train_s=5 * p**1.5) for p in (10, 100, 1000)
    ]
    assert ctal_report.exponent(rows, "train_s") == pytest.approx(1.5)
    assert math.isnan(ctal_report.exponent(rows[:1], "train_s"))


@pytest.mark.parametrize("flag", ["--points=72x96", "--implementations=fast"])
def test_ctal_refuses_what_it_does_not_know(flag, tmp_path, capsys):
    with pytest.raises(SystemExit):
        ctal.main([flag, f"--out={tmp_path}"])
    assert flag.partition("=")[0] in capsys.readouterr().err


@pytest.mark.slow
def test_cityscapes_step_reports_memory(capsys):
    cityscapes_step.main(["--image_size=32,64", "--backbone=hrnet_tiny"])
    printed = capsys.readouterr().out
    assert "CTAL on 128 pixels" in printed
    assert "step 1: loss" in printed


def test_input_pipeline_measures_every_form_of_records(capsys):
    flags = ["--layouts=synthrooms,cityscapes_mtan,pascal_context", "--threads=0,2", "--examples=3"]
    rows = input_pipeline.main([*flags, "--batch_size=2", "--seconds=0.01", "--step_ms=1"])
    assert [row.layout for row in rows] == [
        layout for layout in flags[0].partition("=")[2].split(",") for _ in "1234"
    ]
    assert [(row.cache, row.threads) for row in rows[:4]] == [
        (cache, threads) for cache in (False, True) for threads in (0, 2)
    ]
    for row in rows:
        assert row.images_per_second > 0
        assert row.cpu_ms > 0
        assert 0 < row.waiting < 1
    assert "512x512" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--layouts=kitti", "--threads=many"])
def test_input_pipeline_refuses_what_it_does_not_know(flag, capsys):
    with pytest.raises(SystemExit):
        input_pipeline.main([flag])
    assert flag.partition("=")[0] in capsys.readouterr().err


def test_benchmarks_import_without_tensorflow():
    names = ("ctal", "cityscapes_step", "input_pipeline", "steps_measured", "train_step")
    modules = ", ".join(f"benchmarks.{name}" for name in names)
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.slow
def test_balancing_measures_methods_beside_equal_weights(tmp_path, capsys):
    sizes = ["--network=hps", "--backbone=segnet_tiny", "--image_size=32,32", "--rounds=1"]
    equal, mgda = balancing.main([*sizes, "--methods=mgda", f"--out={tmp_path}"])
    assert (equal.method, equal.temporaries_ratio, mgda.method) == ("equal", 1, "mgda")
    assert mgda.gflop > equal.gflop and mgda.step_ratio > 0
    with (tmp_path / "balancing.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["equal", "mgda"]
    with pytest.raises(SystemExit):
        balancing.main(["--methods=mean"])
    assert "--methods" in capsys.readouterr().err


@pytest.mark.slow
def test_micro_batches_take_less_memory(capsys):
    arguments = ["--networks=hps", "--backbone=hrnet_tiny", "--image_size=64,64", "--remat=blocks"]
    whole, parts = memory.main([*arguments, "--accumulate", "1", "4"])
    assert 0 < parts.temporaries_mib < 0.7 * whole.temporaries_mib
    assert (whole.remat, whole.accumulate, parts.accumulate) == ("blocks", 1, 4)
    assert "temporaries" in capsys.readouterr().out


def test_steps_are_measured_and_traced(tmp_path):
    config = tiny.get_config("model=hps,backbone=segnet_tiny").unlock()
    config.tasks, config.model.overrides = ("depth",), {}
    program = steps_measured.make_program(config.lock(), 4, "float32", "hps", "segnet_tiny")
    row, lines = steps_measured.measure(program, "predict", 0.01, tmp_path)
    assert row[:4] == ("hps", "float32", "predict", 4)
    assert all(math.isfinite(x) and x > 0 for x in row[4:])
    assert row.images_per_s == pytest.approx(4000 / row.step_ms)
    assert row.tflops == pytest.approx(row.tflop / row.step_ms * 1000)
    assert any("HardSharing/backbone/encoder/scale_0/unit1" in line for line in lines)
    assert 2 < len(lines) <= 11

    steps_measured.write_csv([row, row], tmp_path / "new" / "steps.csv")
    with (tmp_path / "new" / "steps.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(x["tflop"]) for x in table] == [row.tflop] * 2


def test_operations_in_loops_are_all_counted():
    def run(x):
        return jax.lax.scan(lambda total, _: (total @ x, None), x, length=5)[0]

    assert steps_measured.operations(run, np.ones((8, 8), np.float32)) == 5 * 2 * 8**3


def test_scopes_are_those_of_the_program():
    program = """
  %dot.3 = f32[2]{0} dot(%a, %b), metadata={op_name="jit(f)/Net/conv/dot_general" stack_frame_id=7}
  ROOT %add = f32[] add(%a, %b)
"""
    assert longest.scopes(program) == {"dot.3": "jit(f)/Net/conv/dot_general"}


def test_an_operation_ends_on_any_thread():
    """XLA:CPU names an operation's end by an event, perhaps on another thread."""

    def event(name, start, duration, **stats):
        return SimpleNamespace(
            name=name,
            start_ns=start,
            end_ns=start + duration,
            duration_ns=duration,
            stats=stats.items(),
        )

    steps = (0, 1000)
    one = [event("dot.1", t, 5, hlo_op="dot.1") for t in steps]
    one += [event("while.2", t, 500, hlo_op="while.2") for t in steps]
    other = [event("end: dot.1", t + 40, 0) for t in steps]
    for lines in ((one, other), (other, one)):
        plane = SimpleNamespace(lines=[SimpleNamespace(events=events) for events in lines])
        assert longest.durations(plane) == {"dot.1": 2 * 40}


def test_every_network_has_a_backbone_to_be_measured_on():
    networks = steps_measured.usual_networks()
    assert set(networks) == set(models.NETWORKS)
    assert all(backbone in models.backbones_of(name) for name, backbone in networks.items())


@pytest.mark.slow
def test_train_step_prints_its_table(tmp_path):
    command = [
        *(sys.executable, "-m", "benchmarks.train_step", "--seconds=0.01", "--batch=4"),
        *(flag for flag in CHEAP if "every_steps" not in flag),
        *("--precision=float32,bfloat16", f"--csv={tmp_path / 'steps.csv'}"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "written:" in done.stdout
    with (tmp_path / "steps.csv").open() as file:
        table = [(x["precision"], x["phase"], float(x["tflop"])) for x in csv.DictReader(file)]
    assert [x[:2] for x in table] == [
        (precision, phase)
        for precision in ("float32", "bfloat16")
        for phase in ("train", "predict")
    ]
    assert table[0][2] > 2 * table[1][2]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--precision=float16", "is unknown; choose from "),
        ("--phases=eval", "is unknown; choose from "),
        ("--networks=unet", "is unknown; choose from stl, hps, "),
        ("--batch=0", "is no number of images; write it as 8, or 8,32."),
    ],
)
def test_train_step_refuses_what_it_does_not_know(flag, said):
    command = [sys.executable, "-m", "benchmarks.train_step", "--config=tests/tiny.py", flag]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {flag} {said}")
