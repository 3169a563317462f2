"""launch/colab.ipynb runs from top to bottom."""

import os

import nbformat
from nbclient import NotebookClient

from emanet_jax.training import workdir
from tests.conftest import QUICK_COMPILATION, ROOT

NOTEBOOK = ROOT / "launch" / "colab.ipynb"
SMALL = """
IMAGE_SIZE = (32, 64)
STEPS, TRAIN_ROOMS, VAL_ROOMS, BATCH_SIZE = 2, 4, 2, 2
TASKS, BACKBONE = ("semseg", "depth"), "resnet_tiny"
WORKDIR = {directory!r}
PHOTO = ""
DOWN, ACROSS = 0.9, 0.1
"""


def parameters(notebook):
    (cell,) = (x for x in notebook.cells if "parameters" in x.metadata.get("tags", ()))
    return cell


def test_it_is_kept_without_results():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not x.outputs and x.execution_count is None for x in code)
    names = [line.split(" = ")[0] for line in parameters(notebook).source.splitlines()]
    assert {"IMAGE_SIZE", "STEPS", "BACKBONE", "PHOTO", "DOWN"} <= set(names)


def test_it_trains_predicts_and_shows_what_a_pixel_attends_to(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters(notebook).source = SMALL.format(directory=str(tmp_path / "run"))
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILATION}
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=600, resources=place).execute(env=environment)

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(x.text for x in outputs if x.output_type == "stream" and x.name == "stdout")
    assert "1 x cpu (cpu)" in printed and "step 2/2  loss " in printed
    pictures = [x for x in outputs if "image/png" in x.get("data", {})]
    assert len(pictures) == 4  # curves, panel, photo, affinities
    assert (tmp_path / "run" / workdir.RESULTS).exists()
    last = notebook.cells[-1]
    assert "of_network" in last.source
    assert any("image/png" in x.get("data", {}) for x in last.outputs)
