"""Reports of runs: grouping, means and deviations, delta_m, tables, curves, and the page."""

import base64
import dataclasses
import html.parser
import io
import json
import math
import shutil

import ml_collections
import numpy as np
import pandas as pd
import pytest
from etils import epath
from PIL import Image

from emanet_jax import inference
from emanet_jax.compare import pictures, report, runs, tables
from emanet_jax.compare.runs import Group, Run
from emanet_jax.compare.tables import DEFINITIONS, DELTA_M, Table
from emanet_jax.config import default_config, flatten
from emanet_jax.data import pipeline
from emanet_jax.errors import UserError
from emanet_jax.models.cost import Cost
from emanet_jax.tasks import metrics, tasks_for
from emanet_jax.training import logs, workdir
from tests import fake_runs

TASKS = tasks_for("synthrooms", ["semseg", "depth"])
SEMSEG, DEPTH = TASKS
REFERENCE = {"semseg/miou_percent": 40.0, "semseg/pixel_accuracy_percent": 80.0}
REFERENCE |= {"depth/rmse_m": 0.5, "depth/rel": 0.2}


def make_run(results=REFERENCE, *, seed=0, scalars=(), **changes) -> Run:
    """A run whose config differs from the smallest in `changes`, keys with "__" for the dot."""
    config = fake_runs.make_config("hps", seed)
    with config.unlocked():
        for key, value in changes.items():
            config.update_from_flattened_dict({key.replace("__", "."): value})
    rows = [*scalars, {"step": 12}]
    place = epath.Path(f"/runs/{seed}")
    return Run(place, config, 12, 12, dict(results), {}, rows, "1 x cpu")


def group(*results, label="hps") -> Group:
    return Group(label, tuple(make_run(x, seed=seed) for seed, x in enumerate(results)))


def test_lists_of_keys_name_keys_of_the_config():
    keys = flatten(default_config())
    assert {*runs.MUST_AGREE, *runs.NO_DIFFERENCE} <= keys.keys()


def test_runs_belong_together_that_differ_in_seed_and_bookkeeping_alone():
    members = [
        make_run(seed=3),
        make_run(seed=1, log_every_steps=7, data__data_dir="elsewhere"),
        make_run(seed=1, balancing="uncertainty"),
        make_run(seed=0, model__name="stl"),
    ]
    found = runs.grouped(members)
    labels = ["hps (balancing=fixed)", "hps (balancing=uncertainty)", "stl"]
    assert [x.label for x in found] == labels
    assert [[r.config.seed for r in x.runs] for x in found] == [[1, 3], [1], [0]]
    assert runs.choose_reference(found, None).label == "stl"
    assert runs.choose_reference(found, "/runs/3").label == "hps (balancing=fixed)"
    assert runs.choose_reference(found[:2], None) is None
    with pytest.raises(UserError, match="--reference=/runs/9 is none of the runs"):
        runs.choose_reference(found, "/runs/9")
    with pytest.raises(UserError, match="/runs/0 and /runs/0: choose one with --reference"):
        runs.choose_reference([found[2], found[2]], None)


@pytest.mark.parametrize(
    "change",
    [
        {"data__image_size": (64, 64)},
        {"data__dataset": "nyuv2"},
        {"data__seed": 1},
        {"data__classes": 40},
        {"tasks": ("depth",)},
    ],
)
def test_runs_on_other_data_are_not_compared(change):
    key = next(iter(change)).replace("__", ".")
    with pytest.raises(UserError, match=f"/runs/0 and /runs/1 cannot be compared: {key} is"):
        runs.check_comparable([make_run(), make_run(seed=1, **change)])


def test_the_order_of_tasks_does_not_matter():
    other = make_run(seed=1, tasks=("normals", "depth", "semseg"))
    assert len(runs.check_comparable([make_run(), other])) == 3


def test_means_and_sample_deviations_of_what_is_there():
    frame = pd.DataFrame({"x": [1.0, 2.0, math.nan, 6.0, 2.0, math.nan]}, list("aaaabc"))
    texts, best = tables._compared(frame, {"x": ("x ↓", False), "gone": ("gone ↑", True)})
    assert texts.to_dict("list") == {"x ↓": ["3.000 ± 2.646", "2.000", "–"], "gone ↑": ["–"] * 3}
    assert best.to_numpy().tolist() == [[False, False], [True, False], [False, False]]


@pytest.mark.parametrize(
    ("values", "text"), [([123.456], "123.5"), ([-12.345], "-12.35"), ([1, 0.5], "0.750 ± 0.354")]
)
def test_numbers_have_three_or_four_digits(values, text):
    frame = pd.DataFrame({"x": values}, ["a"] * len(values), dtype=float)
    assert tables._compared(frame, {"x": ("x", True)})[0].iat[0, 0] == text


def gains(run, reference=REFERENCE):
    """delta_m of a run over another in the three definitions."""
    groups = [Group("a", (run,)), Group("stl", (make_run(reference),))]
    values = tables.run_values(groups, TASKS, groups[1])
    return [values.at["a", DELTA_M + x] for x in DEFINITIONS]


def test_delta_m_in_its_three_definitions_by_hand():
    values = {"semseg/miou_percent": 44.0, "semseg/pixel_accuracy_percent": 80.0}
    run = make_run({**values, "depth/rmse_m": 0.6, "depth/rel": 0.1})
    # +10 %, 0 | -20 %, +50 %
    expected = [(10 - 20) / 2, (5 + 15) / 2, (10 + 0 - 20 + 50) / 4]
    assert gains(run) == pytest.approx(expected)
    more = {**run.results, "depth/abs_m": 9.0}  # that the reference lacks does not count
    assert gains(make_run(more)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("depth/rel", None), ("depth/rel", math.nan), ("depth/rel", math.inf)),
        ("depth/rmse_m", math.nan),
    ],
)
def test_delta_m_is_missing_where_a_metric_is(name, value):
    results = {k: v for k, v in REFERENCE.items() if k != name}
    run = make_run(results if value is None else {**REFERENCE, name: value})
    missing = [name == "depth/rmse_m", True, True]
    assert [math.isnan(x) for x in gains(run)] == missing
    for lacking in (0.0, math.nan):
        assert [math.isnan(x) for x in gains(make_run(), {**REFERENCE, name: lacking})] == missing


def test_the_summary_marks_the_best_in_each_direction_and_says_what_is_missing():
    better = {**REFERENCE, "semseg/miou_percent": 50.0, "depth/rmse_m": 0.4}
    rows = [{"step": 1, "train/images_per_second": x} for x in (1.0, 30.0, 40.0)]
    stl = Group("stl", (make_run(scalars=rows),))
    hps = group(better, {**better, "semseg/miou_percent": 52.0}, label="hps")
    lacking = group({"semseg/miou_percent": 45.0}, label="mtan")
    groups, costs = [stl, hps, lacking], [Cost(1_500_000, 2_345_000_000, "")] * 3
    table = tables.summary(groups, TASKS, tables.run_values(groups, TASKS, stl), stl, costs)
    assert [*table.texts][:3] == ["semseg miou (%) ↑", "depth rmse (m) ↓", "Δm primary (%) ↑"]
    first, second, third = table.texts.to_numpy().tolist()
    price = ["1.50 M", "2.35 G"]
    assert first == ["40.00", "0.500", "0.00", "0.00", "0.00", *price, "30.0"]
    assert table.texts.index[1] == "hps\u00a0(2\u00a0seeds)"
    assert second[:3] == ["51.00 ± 1.41", "0.400 ± 0.000", "23.75 ± 1.77"]
    assert table.best.iloc[1, :3].all() and not table.best.iloc[0, :3].any()
    assert not table.best.iloc[:, 5:].any(axis=None)
    assert third[:3] == ["45.00", "–", "–"] and third[-1] == "–"
    values = tables.run_values(groups[1:], TASKS, None)
    without = tables.summary(groups[1:], TASKS, values, None, costs[1:])
    assert without.texts.columns[2] == "parameters" and "No Δm" in " ".join(without.notes)


def test_the_direction_of_a_metric_is_its_task_s_and_not_its_name_s():
    class Similarity(metrics.EdgeLoss):
        def higher_is_better(self):
            return {"loss": True}

    def metric(prediction, label, valid):
        return Similarity(**vars(metrics.EdgeLoss.of(prediction, label, valid)))

    (edge,) = tasks_for("pascal_context", ["edge"])
    task = dataclasses.replace(edge, metric=metric, primary="loss", host_metric=None)
    groups = [group({"edge/loss": x}, label=str(x)) for x in (0.1, 0.9)]
    table = tables.all_metrics(task, tables.run_values(groups, [task], None))
    assert [*table.texts] == ["loss ↑"] and table.best["loss ↑"].tolist() == [False, True]


def test_a_run_that_is_not_finished_is_named():
    stopped = make_run()._replace(step=7)
    groups = [Group("hps", (stopped,)), group(REFERENCE, label="stl")]
    notes = tables._notes(groups, None)
    assert "Not finished: hps, seed 0 at step 7 of 12." in notes
    assert sum("Not finished" in note for note in notes) == 1


def test_classes_are_rows_with_the_best_network_in_bold():
    classes = dict.fromkeys(SEMSEG.class_names, 10.0) | {"books": math.nan}
    first = make_run()._replace(per_class={"semseg/iou_percent": classes})
    better = first._replace(per_class={"semseg/iou_percent": {**classes, "bed": 12.0}})
    (table,) = tables.by_class([Group("a", (first,)), Group("b", (better,))], SEMSEG)
    rows = dict(table.rows())
    assert [*rows] == [*SEMSEG.class_names] and [*table.texts] == ["a", "b"]
    assert rows["bed"] == [("10.0", False), ("12.0", True)]
    assert rows["books"] == [("–", False), ("–", False)]
    assert table.colours[0] == (61, 99, 181)
    assert tables.by_class([Group("a", (first,))], DEPTH) == []


def make_table(title="T", name="a_b", text="1 ± 2", notes=("n",)):
    columns = pd.Index(["miou (%) ↑"], name="network")
    return Table(
        title, pd.DataFrame(text, [name], columns), pd.DataFrame(True, [name], columns), notes
    )


def test_tables_in_markdown_and_latex():
    assert make_table().markdown().splitlines() == [
        *("### T", "", "| network | miou (%) ↑ |", "| --- | --- |", "| a_b | **1 ± 2** |"),
        *("", "- n"),
    ]
    lines = make_table().latex().splitlines()
    assert lines[:2] == ["% T", r"\begin{tabular}{lr}"]
    assert lines[3] == r"network & miou (\%) $\uparrow$ \\"
    assert lines[5] == r"a\_b & \textbf{1 $\pm$ 2} \\"


def test_settings_that_differ_and_settings_that_all_share():
    other = make_run(seed=1, model__overrides=ml_collections.ConfigDict({"width": 8}))
    groups = [Group("a", (make_run(), make_run(seed=2))), Group("b", (other,))]
    table, shared = tables.settings(groups)
    assert table.texts.T.to_dict() == {"model.overrides.width": {groups[0].title: "–", "b": "8"}}
    assert shared["model.name"] == "hps" and not {"seed", "model.overrides.width"} & {*shared}


def test_values_of_classes_come_from_the_sums_of_an_evaluation():
    counts = np.zeros((13, 13), int)
    counts[0, 0], counts[0, 1] = 3, 1
    found = logs.per_class([SEMSEG], {"semseg": metrics.Confusion(counts)})
    values = found["semseg/iou_percent"]
    assert list(values) == list(SEMSEG.class_names)
    assert [values[x] for x in ("bed", "books")] == [75.0, 0.0] and math.isnan(values["wall"])


def test_a_curve_has_the_steps_of_all_seeds_and_is_thinned_to_its_last_point():
    rows = [{"step": n, "x": 1.0 / n} for n in range(1, 1001)] + [{"step": 1000, "y": 1.0}]
    other = [{"step": 5, "x": math.nan}, *({"step": n, "x": 3.0} for n in range(6, 1002))]
    points = pictures.curve(Group("a", (make_run(scalars=rows), make_run(scalars=other))), "x")
    assert points.index[-1] == 1000 and points.index.min() >= 6 and 150 < len(points) <= 200
    assert points.loc[1000].tolist() == [1e-3, 3.0] and set(np.diff(points.index)) == {5}


def test_charts_are_drawn_alike_every_time():
    rows = [{"step": n, "train/loss_depth": 1.0 / n} for n in range(1, 5)]
    groups = [Group("a", (make_run(scalars=rows), make_run(scalars=rows[:2], seed=1)))]
    charts = pictures.charts(groups, TASKS)
    assert [*charts] == ["depth: training loss"]
    svg = base64.b64decode(charts["depth: training loss"].partition(",")[2])
    assert svg.count(b"<svg") == 1
    assert pictures.charts(groups, TASKS) == charts
    assert pictures.charts([group(REFERENCE)], TASKS) == {}


class Page(html.parser.HTMLParser):
    """A page's sources and its bold cells; fails on a tag that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources, self.best, self.alone, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values[x] for x in ("src", "href") if x in values]
        if tag not in ("img", "meta"):
            self.open.append((tag, values.get("class")))
        self.alone.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == ("td", "best"):
            self.best.append(data)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two networks, two seeds; the first of each has a checkpoint."""
    root = tmp_path_factory.mktemp("sweep")
    for network in ("stl", "hps"):
        for seed in (0, 1):
            config = fake_runs.make_config(network, seed, str(root / "records"))
            fake_runs.write_run(root / network / f"seed{seed}", config)
            if seed == 0:
                fake_runs.write_checkpoint(root / network / "seed0", config)
    return root


def test_a_report_of_everything(sweep, tmp_path):
    report.write([str(sweep)], str(tmp_path / "new" / "report"), None, images=2)
    folder = tmp_path / "new" / "report"
    assert {path.name for path in folder.iterdir()} == {
        *("report.html", "report.md", "report.tex", "report.json")
    }
    text = (folder / "report.html").read_text()
    shown = Page(text)
    assert not shown.open and "script" not in shown.alone
    assert all(source.startswith("data:image/") for source in shown.sources)
    kinds = [source.partition(";")[0] for source in shown.sources]
    assert kinds.count("data:image/svg+xml") == 6  # loss and metric of each task
    assert kinds.count("data:image/webp") == 2 * (1 + 3 * (1 + 2)) + 2  # a bar and a ball
    assert shown.best

    data = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    assert data["reference"] == "stl" and [x["label"] for x in data["groups"]] == ["hps", "stl"]
    stl = data["groups"][1]
    assert stl["delta_m_percent"]["primary"]["mean"] == pytest.approx(0, abs=1e-9)
    values = [run["results"]["depth/rmse_m"] for run in stl["runs"]]
    assert stl["metrics"]["depth/rmse_m"]["mean"] == pytest.approx(np.mean(values))
    assert stl["metrics"]["depth/rmse_m"]["std"] == pytest.approx(np.std(values, ddof=1))
    markdown = (folder / "report.md").read_text()
    assert (
        "| hps\u00a0(2\u00a0seeds) |" in markdown and "semseg: iou (%) ↑ of every class" in markdown
    )
    assert (folder / "report.tex").read_text().count(r"hps~(2~seeds) & ") == 6

    # The first photo, and what the first network's own checkpoint makes of its depth.
    key, _, *webp = (x for x, kind in zip(shown.sources, kinds, strict=True) if "webp" in kind)
    ends = np.array([0, DEPTH.limit])[None, :, None]
    np.testing.assert_array_equal(decoded(key)[0, [0, -1]], DEPTH.to_rgb(ends)[0])
    assert 'style="background:rgb(61, 99, 181)"></i><span>bed</span>' in text
    trained = inference.load_trained(sweep / "hps" / "seed0")
    (batch,) = pipeline.eval_batches(
        [pipeline.load(pipeline.prepare(trained.config.data), "val")[0]],
        TASKS,
        batch_size=1,
        image_size=(32, 64),
        threads=0,
    )
    np.testing.assert_array_equal(decoded(webp[0]), batch["image"][0])
    depth = np.asarray(inference.predictor(trained)(batch["image"])["depth"][0])
    label, prediction = (decoded(x) for x in webp[4:6])
    np.testing.assert_array_equal(label, DEPTH.colours(batch["labels"]["depth"][0]))
    np.testing.assert_array_equal(prediction, DEPTH.colours(depth))
    assert (label != prediction).any() and f"hps: seed 0, step {fake_runs.STEPS}" in text


def decoded(uri):
    """The picture (h, w, 3) of a data URI."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_folders_are_searched_and_what_has_no_results_is_left_out(sweep, tmp_path):
    found = runs.find([str(sweep / "stl" / "seed1"), str(sweep)])
    names = [str(path.relative_to(sweep)) for path in found]
    assert names == ["stl/seed1", "hps/seed0", "hps/seed1", "stl/seed0"]
    shutil.copytree(sweep / "stl" / "seed1", tmp_path / "a")
    shutil.copytree(sweep / "stl" / "seed1", tmp_path / "b")
    (tmp_path / "b" / workdir.RESULTS).unlink()
    assert runs.find([str(tmp_path)]) == [epath.Path(tmp_path) / "a"]
    with pytest.raises(UserError, match="b has not been evaluated yet"):
        runs.read(runs.find([str(tmp_path / "b")])[0])


def test_hidden_folders_hold_no_runs(tmp_path):
    for name in ("a", ".trash/b", "c/.ipynb_checkpoints"):
        (tmp_path / name).mkdir(parents=True)
        for file in (workdir.CONFIG, workdir.RESULTS):
            (tmp_path / name / file).write_text("{}")
    assert runs.find([str(tmp_path)]) == [epath.Path(tmp_path) / "a"]


def test_a_run_is_read_with_what_it_lacks(sweep, tmp_path):
    shutil.copytree(sweep / "stl" / "seed1", tmp_path / "a")
    for name in (workdir.PER_CLASS, workdir.ENVIRONMENT, workdir.METRICS):
        (tmp_path / "a" / name).unlink()
    run = runs.read(epath.Path(tmp_path) / "a")
    assert (run.total_steps, run.per_class, run.scalars, run.devices) == (None, {}, [], "")
    assert math.isnan(run.images_per_second())
    assert runs.read(epath.Path(sweep) / "stl" / "seed1").finished


def test_a_metric_without_a_value_is_null_and_a_dash(sweep, tmp_path):
    shutil.copytree(sweep / "stl" / "seed1", tmp_path / "run")
    path = tmp_path / "run" / workdir.RESULTS
    values = json.loads(path.read_text())
    missing = {"depth/rmse_m": None, "depth/abs_m": math.nan}  # NaN: as earlier versions wrote it
    path.write_text(json.dumps(values | missing))
    report.write([str(tmp_path / "run")], str(tmp_path / "report"), None, images=0)
    text = (tmp_path / "report" / "report.json").read_text()
    (group,) = json.loads(text, parse_constant=pytest.fail)["groups"]
    for name in missing:
        assert group["runs"][0]["results"][name] is None
        assert group["metrics"][name] == {"mean": None, "std": None, "count": 0}
    assert group["runs"][0]["results"]["depth/rel"] == values["depth/rel"]
    cells = (tmp_path / "report" / "report.md").read_text().splitlines()[6].split(" | ")
    assert cells[2] == "–" and cells[1] != "–"


def test_text_of_users_is_escaped():
    text = report.render(
        title="<x>",
        facts="",
        tables=[make_table("<T>", "<b>", "<1>", ("<n>",))],
        names=["<name>"],
        colour=pictures.colour,
        charts={"<chart>": "data:"},
        examples=[("data:", {"<task>": ["data:", "data:"]})],
        pixelated=False,
        keys={"<key>": pictures.Key({"<class>": "red"}, "data:")},
        predicted_by="<by>",
        settings={"overrides": "<i>"},
    )
    for word in ("x", "T", "b", "1", "n", "name", "chart", "task", "key", "class", "by", "i"):
        assert f"&lt;{word}&gt;" in text and f"<{word}>" not in text
    assert not Page(text).open


def test_configs_of_a_group_may_have_other_overrides():
    other = make_run(seed=1, model__overrides=ml_collections.ConfigDict({"width": 8}))
    assert [x.label for x in runs.grouped([make_run(), other])] == [
        "hps",
        "hps (model.overrides.width=8)",
    ]
