"""Cost against image size and number of tasks: its cases, fits and files; no clock is looked at."""

import csv
import math
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import fits, scale_measured, scale_report, steps_measured
from emanet_jax.tasks import DATASETS
from tests.conftest import ROOT
from tests.test_imports import HEAVY

SIZE = (10, 20)
SCALE = (sys.executable, "-m", "benchmarks.scale")


def made_up(h, w, tasks, phase="train", **changes):
    """A row that takes 0.5 s and 3 s a million pixels and task, 20 MiB a task squared."""
    pixels = h * w
    row = scale_report.Row(
        phase=phase,
        h=h,
        w=w,
        tasks=tasks,
        batch=1,
        pixels=pixels,
        compile_s=60.0,
        step_s=0.5 + 3e-6 * pixels * tasks,
        cpu_s=1 + 6e-6 * pixels * tasks,
        tflop=1e-6 * pixels,
        state_mib=10.0,
        memory_mib=20.0 * tasks**2,
    )
    return row._replace(**changes)


ROWS = [
    *(made_up(*SIZE, tasks) for tasks in (1, 2, 3, 4)),
    *(made_up(1000 * k, 1000, tasks=2) for k in (1, 2, 4)),
]


def test_a_power_law_is_found_again():
    fit = fits.power_law([(x, 5 * x**1.5) for x in (10, 100, 1000)])
    assert fit.coefficients == pytest.approx((5, 1.5)) and fit.r2 == pytest.approx(1)
    with_gaps = fits.power_law([(1, 2.0), (2, math.nan), (3, 0.0), (4, 8.0)])
    assert with_gaps.coefficients == pytest.approx((2, 1))


def test_polynomials_are_found_again_constant_first():
    points = [(x, 1.0 + 2 * x + 3 * x * x) for x in (1, 2, 4, 5)]
    fit = fits.polynomial([*points, (3, math.nan)], degree=2)
    assert fit.coefficients == pytest.approx((1, 2, 3)) and fit.r2 == pytest.approx(1)


def test_r2_is_the_share_that_a_line_explains():
    # y = 0, 1, 0, 3: the line -0.2 + 0.8 x leaves 2.8 of the squares' sum, 6.
    fit = fits.polynomial([(0, 0.0), (1, 1.0), (2, 0.0), (3, 3.0)], degree=1)
    assert fit.coefficients == pytest.approx((-0.2, 0.8)) and fit.r2 == pytest.approx(1 - 2.8 / 6)


@pytest.mark.parametrize("degree", [1, 2])
def test_too_few_points_fit_nothing(degree):
    fit = fits.polynomial([(1, 1.0), (1, 2.0), (2, math.nan)][: degree + 1], degree)
    assert len(fit.coefficients) == degree + 1
    assert np.isnan([*fit.coefficients, fit.r2]).all()
    assert math.isnan(fits.power_law([(1, 1.0)]).coefficients[1])
    assert math.isnan(fits.power_law([]).r2)


def test_every_task_is_there_once():
    names = [task.name for task in scale_measured.all_tasks()]
    known = {task.name for spec in DATASETS.values() for task in spec.tasks}
    assert len(names) == len(known) == 6 and set(names) == known


def test_what_both_series_have_is_measured_once():
    found = scale_measured.cases([(64, 128), (64, 64)], 2, [1, 2, 3], (64, 64))
    assert found == [((64, 64), 1), ((64, 64), 2), ((64, 64), 3), ((64, 128), 2)]


def test_a_forecast_is_in_proportion_to_what_ran_last():
    rows = [made_up(10, 10, 1, step_s=2.0), made_up(20, 10, 1, step_s=math.nan)]
    assert scale_measured.forecast(rows, 300, 2, "train") == pytest.approx(12)
    assert math.isnan(scale_measured.forecast(rows, 300, 2, "predict"))


def test_lines_have_dashes_where_nothing_ran():
    assert "    60 s" in scale_report.line(ROWS[0]) and " - " not in scale_report.line(ROWS[0])
    million = scale_report.line(made_up(1000, 500, 2))
    assert million.split()[-5:] == ["14.00", "s", "160", "MiB", "1.000"]
    nothing = scale_report.line(ROWS[0]._replace(step_s=math.nan, cpu_s=math.nan))
    assert "nan" not in nothing and nothing.count("  - ") == 3  # step, CPU and per pixel


def test_a_summary_has_the_growth_of_both_series():
    both = scale_report.both_series(ROWS, 2, SIZE)
    assert [len(series.rows) for series in both] == [4, 4]
    text = scale_report.summary(both)
    pixels, tasks = text.split("growth with")[1:]
    assert "1 s + 12 s P (R² 1.0000)" in pixels
    assert "millions of pixels P, 2 tasks" in pixels and "0.5 s + 6 s P (R² 1.0000)" in pixels
    assert "operations ~ P^1.00 (R² 1.0000)" in pixels and "P²" not in pixels
    assert "N tasks, 10x20" in tasks and "~ N^2.00 (R² 1.0000)" in tasks
    assert "20 MiB N² (R² 1.0000)" in tasks


def test_what_was_not_run_is_in_no_fit():
    rows = [row._replace(step_s=math.nan) for row in ROWS]
    pixels, _ = scale_report.both_series(rows, 2, SIZE)
    assert pixels.points("train", "step_s") == [] and len(pixels.points("train", "tflop")) == 4
    assert "time       ~ P^- (R² -), - s + - s P (R² -)" in scale_report.summary([pixels])


def test_the_picture_and_the_table_are_written_whole(tmp_path):
    rows = [*ROWS, *(row._replace(phase="predict", step_s=math.nan) for row in ROWS)]
    scale_report.plot(scale_report.both_series(rows, 2, SIZE), "title", tmp_path / "scale.png")
    steps_measured.write_csv(rows, tmp_path / "scale.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"scale.csv", "scale.png"}
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "scale.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(row["pixels"]) for row in table] == [row.pixels for row in rows]


def test_a_program_that_is_too_large_is_compiled_and_not_run():
    row = scale_measured.measure(
        (64, 64),
        1,
        "predict",
        backbone="hrnet_tiny",
        batch_size=4,
        precision="float32",
        budget=0.0,
        most_mib=1.0,
    )
    assert math.isnan(row.step_s) and math.isnan(row.cpu_s)
    assert row[:6] == ("predict", 64, 64, 1, 4, 4096)
    assert row.compile_s > 0 and row.tflop > 0 and row.memory_mib > row.state_mib / 3 > 1


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--phases=eval", "--phases=eval is unknown; choose from train, predict."),
        ("--sizes=64x64,big", "--sizes=big is no size; write it as 288x384."),
        ("--size=64x70", "--size=64x70: height and width must be multiples of 32"),
        ("--tasks=2,7", "--tasks=7 is no number of tasks; give one from 1 to 6."),
        ("--count=0", "--count=0 is no number of tasks; give one from 1 to 6."),
        ("--precision=float16", "flag --precision=float16: "),
        ("--backbone=vgg", "backbone"),
        ("--seconds=-1", "flag --seconds=-1"),
    ],
)
def test_faults_of_flags_are_one_line(flag, words, tmp_path):
    command = [*SCALE, flag, f"--out={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    *progress, fault = done.stderr.splitlines()
    assert fault.startswith("error: ") and words in fault
    assert len(progress) <= 1 and not (tmp_path / "out").exists()


def test_scale_imports_without_tensorflow():
    code = "import sys, benchmarks.scale, benchmarks.scale_measured; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.slow
def test_scale_measures_both_series(tmp_path):
    flags = ["--backbone=hrnet_tiny", "--sizes=64x64,64x128", "--tasks=1,2", "--size=64x64"]
    command = [*SCALE, *flags, "--batch=4", "--seconds=0", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "3 of 3: 64x128, tasks: 2, train" in done.stderr
    assert "growth with millions of pixels P, 2 tasks" in done.stdout
    with (tmp_path / "scale.csv").open() as file:
        rows = [
            {key: float(x) for key, x in row.items() if key != "phase"}
            for row in csv.DictReader(file)
        ]
    assert [(row["pixels"], row["tasks"]) for row in rows] == [(4096, 1), (4096, 2), (8192, 2)]
    assert all(x > 0 for row in rows for x in row.values())
    assert rows[0]["tflop"] < rows[1]["tflop"] < rows[2]["tflop"]
    assert (tmp_path / "scale.png").stat().st_size > 1000
