"""The benchmarks run, and their tables can be read; nothing here looks at a clock."""

import csv
import math
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import common, ctal, ctal_costs, input_pipeline, scale, scale_series
from emanet_jax import models
from emanet_jax.models.affinity import IMPLEMENTATIONS
from emanet_jax.tasks import DATASETS
from tests import forks, tiny
from tests.commands import CHEAP
from tests.conftest import ROOT
from tests.test_imports import HEAVY


def table(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def command(module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    done = forks.python("-m", f"benchmarks.{module}", *arguments)
    assert not check or done.returncode == 0, done.stderr
    return done


def test_benchmarks_import_without_tensorflow():
    code = "import sys, benchmarks.ctal_costs, benchmarks.pipeline_speed; "
    code += "import benchmarks.scale_series, benchmarks.common; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


# --- what they share -----------------------------------------------------------------------------


def test_operations_in_loops_are_all_counted():
    def run(x):
        return jax.lax.scan(lambda total, _: (total @ x, None), x, length=5)[0]

    assert common.operations(run, np.ones((8, 8), np.float32)) == 5 * 2 * 8**3


def test_polynomials_are_found_again_constant_first():
    points = [(x, 1.0 + 2 * x + 3 * x * x) for x in (1, 2, 4, 5)]
    coefficients, r2 = common.fit([*points, (3, math.nan)], degree=2)
    assert coefficients == pytest.approx([1, 2, 3]) and r2 == pytest.approx(1)
    # y = 0, 1, 0, 3: the line -0.2 + 0.8 x leaves 2.8 of the squares' sum, 6.
    coefficients, r2 = common.fit([(0, 0.0), (1, 1.0), (2, 0.0), (3, 3.0)])
    assert coefficients == pytest.approx([-0.2, 0.8]) and r2 == pytest.approx(1 - 2.8 / 6)


def test_the_exponent_is_the_slope_in_logarithms():
    assert common.exponent([(x, 5 * x**1.5) for x in (10, 100, 1000)]) == pytest.approx(1.5)
    assert common.exponent([(1, 2.0), (2, math.nan), (3, 0.0), (4, 8.0)]) == pytest.approx(1)


@pytest.mark.parametrize("degree", [1, 2])
def test_too_few_points_fit_nothing(degree):
    coefficients, r2 = common.fit([(1, 1.0), (1, 2.0), (2, math.nan)][: degree + 1], degree)
    assert len(coefficients) == degree + 1 and np.isnan([*coefficients, r2]).all()
    assert math.isnan(common.exponent([(1, 1.0)])) and math.isnan(common.exponent([]))


# --- ctal ----------------------------------------------------------------------------------------


def test_ctal_measures_every_implementation(tmp_path, capsys):
    rows = ctal.main(["--points=2x3x2x4,3x4x2x4x2", f"--out={tmp_path}"])
    assert [row.implementation for row in rows] == [*IMPLEMENTATIONS] * 2
    for row in rows:
        numbers = [x for x in row if isinstance(x, float)]
        assert len(numbers) == 8
        assert all(math.isfinite(x) and x >= 0 for x in numbers)
        assert max(row.value_error, row.gradient_error) < 2e-5
        assert row.train_gflop > row.forward_gflop > 0
    written = table(tmp_path / "ctal.csv")
    assert [row["pixels"] for row in written] == ["6"] * 3 + ["12"] * 3
    assert set(written[0]) == set(ctal_costs.Row._fields)
    assert (tmp_path / "ctal.png").stat().st_size > 1000
    assert "2x3x2x4x1" in capsys.readouterr().out


def test_ctal_names_what_it_leaves_out(tmp_path, capsys):
    rows = ctal.main(["--points=2x3x2x4", "--budget_gib=0", f"--out={tmp_path}"])
    measured = {row.implementation for row in rows if math.isfinite(row.train_s)}
    assert measured == {"factorized"}
    assert "shifted      train left out: 0.0 GiB of P x P arrays" in capsys.readouterr().out
    assert [row["train_s"] != "" for row in table(tmp_path / "ctal.csv")] == [True, False, False]


@pytest.mark.parametrize("flag", ["--points=72x96", "--implementations=fast"])
def test_ctal_refuses_what_it_does_not_know(flag, tmp_path, capsys):
    with pytest.raises(SystemExit):
        ctal.main([flag, f"--out={tmp_path}"])
    assert flag.partition("=")[0] in capsys.readouterr().err


# --- the input pipeline --------------------------------------------------------------------------


def test_input_pipeline_measures_every_form_of_records(capsys):
    flags = ["--layouts=synthrooms,cityscapes_mtan,pascal_context", "--threads=0,2", "--examples=3"]
    rows = input_pipeline.main([*flags, "--batch_size=2", "--seconds=0.01", "--step_ms=1"])
    names = flags[0].removeprefix("--layouts=").split(",")
    assert [row.layout for row in rows] == [name for name in names for _ in "1234"]
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


# --- the training step ---------------------------------------------------------------------------


def small_config():
    config = tiny.get_config("model=hps").unlock()
    config.tasks, config.model.overrides = ("depth",), {}
    return config


def test_a_step_is_measured_and_traced(tmp_path):
    row = common.measure_step(small_config(), "predict", 0.01, traces=tmp_path)
    assert row[:5] == ("hps", "fixed", "float32", "predict", 4)
    assert all(math.isfinite(x) and x > 0 for x in row[5:])
    assert row.images_per_s == pytest.approx(4000 / row.step_ms)
    assert row.memory_mib > row.state_mib / 3  # the moments are not read
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert " - " not in common.step_line(row)

    common.write_csv([row, row], tmp_path / "new" / "steps.csv")
    assert [float(x["tflop"]) for x in table(tmp_path / "new" / "steps.csv")] == [row.tflop] * 2


def test_a_program_that_is_too_large_is_compiled_and_not_run():
    row = common.measure_step(small_config(), "predict", 0.0, most_mib=0.01)
    assert math.isnan(row.step_ms) and math.isnan(row.cpu_ms)
    assert row.compile_s > 0 and row.tflop > 0 and row.memory_mib > 0.01
    assert "nan" not in common.step_line(row)


@pytest.mark.slow
def test_micro_batches_take_less_memory():
    config = tiny.get_config("model=hps,backbone=hrnet_tiny").unlock()
    config.model.overrides, config.data.image_size = {}, (64, 64)
    one = jax.devices()[:1]
    whole = common.measure_step(config, "train", 0.0, most_mib=0, devices=one)
    config.accumulate = 4
    micro_batches = common.measure_step(config, "train", 0.0, most_mib=0, devices=one)
    temporaries = [row.memory_mib - row.state_mib for row in (whole, micro_batches)]
    assert 0 < temporaries[1] < 0.7 * temporaries[0]


def test_every_network_has_a_backbone_to_be_measured_on():
    networks = common.usual_networks()
    assert set(networks) == set(models.NETWORKS)
    assert all(backbone in models.backbones_of(name) for name, backbone in networks.items())


@pytest.mark.slow
def test_train_step_prints_its_table(tmp_path):
    done = command(
        "train_step",
        *("--seconds=0.01", "--batch=4", "--precision=float32,bfloat16"),
        *("--balancing=equal,uncertainty", f"--csv={tmp_path / 'steps.csv'}"),
        *(flag for flag in CHEAP if "every_steps" not in flag),
    )
    rows = table(tmp_path / "steps.csv")
    assert len(done.stdout.splitlines()) == 2 + len(rows)
    assert [(x["balancing"], x["precision"], x["phase"]) for x in rows] == [
        (balancing, precision, phase)
        for balancing in ("equal", "uncertainty")
        for precision in ("float32", "bfloat16")
        for phase in ("train", "predict")
    ]
    assert float(rows[0]["tflop"]) > 2 * float(rows[1]["tflop"])


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (
            "--precision=float16",
            "is unknown; choose from float32, bfloat16; did you mean 'bfloat16'?",
        ),
        ("--networks=unet", "is unknown; choose from stl, hps, "),
        ("--batch=0", "is no number of images; write it as 8, or 8,32."),
    ],
)
def test_train_step_refuses_what_it_does_not_know(flag, words):
    done = command("train_step", "--config=tests/tiny.py", flag, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {flag} {words}")


# --- scale ---------------------------------------------------------------------------------------

SIZE = (10, 20)


def made_up(h, w, tasks):
    """A row that takes 0.5 s and 3 s a million pixels and task, 20 MiB a task squared."""
    return scale_series.Row(
        h=h,
        w=w,
        tasks=tasks,
        pixels=h * w,
        compile_s=60.0,
        step_s=0.5 + 3e-6 * h * w * tasks,
        cpu_s=1 + 6e-6 * h * w * tasks,
        tflop=1e-6 * h * w,
        state_mib=10.0,
        memory_mib=20.0 * tasks**2,
    )


ROWS = [
    *(made_up(*SIZE, tasks) for tasks in (1, 2, 3, 4)),
    *(made_up(1000 * k, 1000, tasks=2) for k in (1, 2, 4)),
]


def test_every_task_is_there_once():
    names = [task.name for task in scale_series.all_tasks()]
    known = {task.name for dataset in DATASETS.values() for task in dataset.tasks}
    assert len(names) == len(known) == 6 and set(names) == known


def test_what_both_series_have_is_measured_once():
    found = scale_series.cases([(64, 128), (64, 64)], 2, [1, 2, 3], (64, 64))
    assert found == [((64, 64), 1), ((64, 64), 2), ((64, 64), 3), ((64, 128), 2)]


def test_lines_have_dashes_where_nothing_ran():
    per_million = scale_series.line(made_up(1000, 500, 2)).split()[-5:]
    assert per_million == ["14.00", "s", "160", "MiB", "1.000"]
    nothing = scale_series.line(ROWS[0]._replace(step_s=math.nan, cpu_s=math.nan))
    assert "nan" not in nothing and nothing.count("  - ") == 3  # step, CPU and per pixel


def test_a_summary_has_the_growth_of_both_series():
    pixels, tasks = scale_series.summary(scale_series.series(ROWS, 2, SIZE)).split("growth with")[
        1:
    ]
    assert "cpu_s      ~ P^" in pixels and "1 s + 12 s P (R² 1.0000)" in pixels
    assert "pixels of an image (2 tasks)" in pixels and "0.5 s + 6 s P (R² 1.0000)" in pixels
    assert "tflop      ~ P^1.00" in pixels and "P²" not in pixels
    assert "tasks (10 x 20)" in tasks and "memory_mib ~ N^2.00" in tasks
    assert "20 MiB N² (R² 1.0000)" in tasks


def test_the_picture_and_the_table_are_written_whole(tmp_path):
    rows = [ROWS[0]._replace(step_s=math.nan, cpu_s=math.nan), *ROWS[1:]]
    scale_series.plot(scale_series.series(rows, 2, SIZE), "title", tmp_path / "scale.png")
    common.write_csv(rows, tmp_path / "scale.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"scale.csv", "scale.png"}
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
    assert [int(row["pixels"]) for row in table(tmp_path / "scale.csv")] == [r.pixels for r in ROWS]


@pytest.mark.parametrize(
    "flag", ["--sizes=64x64,big", "--size=64", "--tasks=2,7", "--backbone=vgg"]
)
def test_scale_refuses_what_it_does_not_know(flag, tmp_path, capsys):
    with pytest.raises(SystemExit):
        scale.main([flag, f"--out={tmp_path / 'out'}"])
    assert flag.partition("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_scale_measures_both_series(tmp_path, capsys):
    sizes = ["--backbone=hrnet_tiny", "--sizes=64x64,64x128", "--tasks=1,2", "--size=64x64"]
    scale.main([*sizes, "--seconds=0", f"--out={tmp_path}"])
    assert "growth with pixels of an image (2 tasks)" in capsys.readouterr().out
    rows = [{key: float(x) for key, x in row.items()} for row in table(tmp_path / "scale.csv")]
    assert [(row["pixels"], row["tasks"]) for row in rows] == [(4096, 1), (4096, 2), (8192, 2)]
    assert all(x > 0 for row in rows for x in row.values())
    assert rows[0]["tflop"] < rows[1]["tflop"] < rows[2]["tflop"]
    assert (tmp_path / "scale.png").stat().st_size > 1000
