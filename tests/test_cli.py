"""The keyboard: natural spellings, and answers that come before the large libraries load.

Commands run here in processes in which these libraries cannot be imported, instead of on a clock.
"""

import json
import re
import subprocess
import sys

import pytest

import emanet_jax
from emanet_jax import cli
from emanet_jax.__main__ import COMMANDS
from emanet_jax.errors import UserError
from tests.conftest import ROOT

LARGE = (
    *("jax", "flax", "optax", "orbax", "grain", "clu", "h5py", "scipy", "pandas", "matplotlib"),
    *("tensorflow", "tensorflow_datasets", "jax2onnx"),
)
WITHOUT_LARGE = f"""
import importlib.machinery, runpy, sys

class Refused:
    def find_spec(self, name, *_):  # libraries may ask whether another one is there
        if name.split(".")[0] in {LARGE}:
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise AssertionError(spec.name + " was imported")

sys.meta_path.insert(0, Refused())
sys.argv = sys.argv[1:]
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__", **({{}} if run is runpy.run_path else {{"alter_sys": True}}))
"""
SCRIPTS = (
    *dict.fromkeys(f"emanet_jax.{module}" for module, *_ in COMMANDS.values()),
    *("benchmarks.ctal", "benchmarks.input_pipeline", "benchmarks.scale", "benchmarks.train_step"),
)


def run(*args: str, cwd=ROOT) -> subprocess.CompletedProcess:
    """A command without the large libraries."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_LARGE, *args],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_there_at_once(script):
    done = run(script, "--help")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    flag = "points" if script.endswith(".ctal") else "config|workdir|model|layouts|sizes"
    assert any(f"--{name}" in done.stdout for name in flag.split("|"))
    assert script in done.stdout  # in an example


def test_help_of_main_shows_an_example_and_where_the_keys_are():
    done = run("emanet_jax.main", "-h")
    assert done.returncode == 0
    assert "--config=synthrooms --workdir=" in done.stdout and "emanet_jax/config.py" in done.stdout


def test_the_package_lists_its_commands():
    done = run("emanet_jax")
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^  (\S+) +\S.*\n +python -m emanet_jax\.(.*)", done.stdout, re.MULTILINE)
    assert listed == [(name, " ".join(words)) for name, words in COMMANDS.items()]
    found = set()
    for path in (ROOT / "emanet_jax").rglob("*.py"):
        if "cli.run(_command)" in path.read_text():
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.add(".".join(parts).removesuffix(".__main__"))
    assert found == {f"emanet_jax.{module}" for module, *_ in COMMANDS.values()}
    done = run("emanet_jax", "trian")
    assert done.returncode == 1 and "did you mean 'train'?" in done.stderr


def test_a_command_of_the_package_is_its_module():
    done = run("emanet_jax", "eval")
    assert done.returncode == 1 and done.stderr == run("emanet_jax.main", "--mode=eval").stderr
    assert run("emanet_jax", "--version").stdout.strip() == emanet_jax.__version__


# --- wrong values --------------------------------------------------------------------------------

NYUV2 = ("emanet_jax.main", "--config=nyuv2", "--workdir=x")
ROOMS = ("emanet_jax.main", "--config=synthrooms", "--workdir=x")
WRONG = {
    "network": (
        ("emanet_jax.main", "--config=nyuv2:model=EMA-Nett", "--workdir=x"),
        r"config.model.name is 'EMA-Nett'; choose from stl, hps, .*; did you mean 'ema_net'?",
    ),
    "backbone": (
        (*ROOMS, "--config.model.backbone=resnet_50"),
        "config.model.backbone is 'resnet_50'; .*; did you mean 'resnet50'?",
    ),
    "variant": ((*ROOMS, "--config.model.variant=relesed"), "did you mean 'released'?"),
    "task": (
        (*ROOMS, "--config.tasks=semseg,dept"),
        r"tasks \['semseg', 'dept'\] do not fit .*'synthrooms'.*; did you mean 'depth'?",
    ),
    "no task": ((*ROOMS, "--config.tasks="), r"tasks \[\] do not fit .*each once\."),
    "size": (
        (*ROOMS, "--config.data.image_size=100x96"),
        r"config.data.image_size is \(100, 96\); it must be \(height, width\), multiples of 32",
    ),
    "precision": ((*ROOMS, "--config.precision=float16"), "config.precision is 'float16'; choose"),
    "data set": (
        (*ROOMS, "--config.data.dataset=nyu"),
        "config.data.dataset is 'nyu'; choose from synthrooms, nyuv2, .*; did you mean 'nyuv2'?",
    ),
    "layout": (
        (*NYUV2, "--config.data.layout=label"),
        "config.data.layout is 'label'; choose from mtan, labeled; did you mean 'labeled'?",
    ),
    "balancing": ((*ROOMS, "--config.balancing=pc_grad"), "did you mean 'pcgrad'?"),
    "schedule": ((*ROOMS, "--config.optimizer.schedule=cos"), "config.optimizer.schedule is 'cos'"),
    "remat": ((*ROOMS, "--config.remat=all"), "config.remat is 'all'; choose from nothing, "),
    "no files": (NYUV2, r"config.data.manual_dir is empty; .*holds \{train,val\}/\{image,"),
    "no such files": (
        (*NYUV2, "--config.data.manual_dir=nowhere"),
        "config.data.manual_dir: there is no folder /.*/nowhere",
    ),
    "no files to check": (("emanet_jax.data.check", "--config=cityscapes"), "manual_dir is empty"),
    "no run": (("emanet_jax.main", "--mode=eval", "--workdir=nowhere"), "nowhere holds no run"),
    "no run to export": (
        ("emanet_jax.export", "--workdir=nowhere", "--format=onnx", "--output=x"),
        "nowhere holds no run",
    ),
    "no run to debug": (("emanet_jax.training.debug_nan", "--workdir=nowhere"), "holds no run"),
    "no runs to compare": (
        ("emanet_jax.compare", "--workdirs=nowhere", "--output=x"),
        "--workdirs=nowhere: there is no such folder",
    ),
    "no weights": (
        ("emanet_jax.convert", "--config=nyuv2", "--from=gone.pth", "--to=x"),
        "gone.pth",
    ),
    "no photos": (
        ("emanet_jax.predict", "--workdir=x", "--images=nowhere", "--output=x"),
        "--images=nowhere stands for no picture",
    ),
    "a folder without photos": (
        ("emanet_jax.predict", "--workdir=x", "--images=empty", "--output=x"),
        "--images=empty holds no picture",
    ),
    "no video": (
        ("emanet_jax.predict", "--workdir=x", "--video=gone.mp4", "--output=x"),
        r"--video=gone\.mp4: there is no such file",
    ),
    "networks of the menu": (
        ("emanet_jax.models", "--model=hps,emanet"),
        "--model=emanet is unknown; .*; did you mean 'ema_net'?",
    ),
    "data set of the menu": (
        ("emanet_jax.models", "--dataset=mars"),
        "--dataset=mars is unknown; choose from",
    ),
    "networks of a sweep": (
        ("emanet_jax.sweep", "--config=synthrooms", "--workdir=x", "--networks=hsp"),
        "--networks=hsp is unknown; .*; did you mean 'hps'?",
    ),
    "precision of a benchmark": (
        ("benchmarks.train_step", "--config=synthrooms", "--precision=half"),
        "--precision=half is unknown; choose from float32, bfloat16",
    ),
    # Flags and keys
    "a missing flag": (ROOMS[:2], r"--workdir is missing: folder of the run: .*\."),
    "a missing format": (
        ("emanet_jax.export", "--workdir=x", "--output=x"),
        r"--format is missing: format to write: stablehlo, savedmodel, onnx\.",
    ),
    "no config to check": (("emanet_jax.data.check",), "--config is missing: a recipe of configs/"),
    "no config to train": (("emanet_jax.main", "--workdir=x"), "--mode=train needs --config, such"),
    "a flag": ((*ROOMS, "--wrkdir=x"), "--wrkdir is no flag .*; did you mean 'workdir'?"),
    "a key as a flag": (
        (*ROOMS, "--backbone=hrnet_w18"),
        "--backbone is no flag .*; did you mean 'config.model.backbone'?",
    ),
    "a key without a config": (
        ("emanet_jax.main", "--workdir=x", "--config.batch_size=4"),
        "--config.batch_size changes a config: give --config, such",
    ),
    "a key": (
        (*ROOMS, "--config.batchsize=4"),
        "--config.batchsize=4: the config has no key 'batchsize'; .*; did you mean 'batch_size'?",
    ),
    "a key of another group": (
        (*ROOMS, "--config.learning_rate=1"),
        "no key 'learning_rate'; .*; did you mean 'optimizer.learning_rate'?",
    ),
    "a key below a value": ((*ROOMS, "--config.seed.x=1"), "the config has no key 'seed.x'; "),
    "a key without end": (
        (*ROOMS, f"--config{'.a' * 9999}=1"),
        "--config.a.a.*: the config",
    ),
    "a flag without end": ((*ROOMS, f"--{'a' * 9999}"), r"--aaa.*\.\.\. is too long, or too deep"),
    "a value without end": (
        (*ROOMS, f"--config.tasks={'(' * 9999}"),
        r"tasks \['\(\(\(.*\.\.\. do not fit data set 'synthrooms'",
    ),
    "a group without end": (
        (*ROOMS, f"--config.model.overrides={'{1:' * 9999}"),
        r"flag --config.model.overrides=\{1:.*\.\.\.:* Failed to parse",
    ),
    "a value for a flag of none": (
        ("emanet_jax.main", "--workdir=x", "--config=synthrooms", "--noallow_config_change=1"),
        "--noallow_config_change=1 does not take an argument",
    ),
    "a recipe": (
        ("emanet_jax.main", "--config=nyu_v2", "--workdir=x"),
        "--config=nyu_v2: there is no such file, and no such recipe; choose from cityscapes, nyuv2,"
        " pascal_context, synthrooms; did you mean 'nyuv2'?",
    ),
    "an argument of a recipe": (
        ("emanet_jax.main", "--config=nyuv2:modle=hps", "--workdir=x"),
        "'modle=hps' is not understood; .*; did you mean 'model'?",
    ),
    "a word": ((*ROOMS, "train"), "'train' is no flag; flags are written as --NAME=VALUE"),
}


@pytest.mark.parametrize(("command", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_answered_at_once(command, words, tmp_path):
    (tmp_path / "empty" / "below").mkdir(parents=True)
    script = str(ROOT / command[0]) if command[0].endswith(".py") else command[0]
    done = run(script, *command[1:], cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and len(line) < 700
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        raise UserError(line.removeprefix("error: "))
    assert [x.name for x in tmp_path.iterdir()] == ["empty"]


# --- spellings -----------------------------------------------------------------------------------

READ = """
import json, sys
from absl import flags
import emanet_jax
from emanet_jax import cli
from emanet_jax.config import to_json
config = cli.define_config()
images = flags.DEFINE_multi_string("images", [], "")
output = flags.DEFINE_string("output", "", "")
shown = lambda: {**json.loads(to_json(config.value)), "images": images.value, "to": output.value}
cli.run(lambda: print(json.dumps(shown())))
"""


def read(tmp_path, *args: str, cwd=ROOT) -> dict:
    """The config that a command line comes to, and its --images and --output."""
    (tmp_path / "read.py").write_text(READ)
    done = run(str(tmp_path / "read.py"), *args, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_natural_spellings(tmp_path):
    found = read(
        tmp_path,
        "--config=nyuv2:model=hps",
        *("--config.tasks=semseg,depth", "--config.data.image_size=64x96"),
        *("--config.precision=bf16", "--config.augment.scale", "0.5,2"),
        *("--images", "a.png", "b c.png", "--output", "out", "--images=d.png", "e,f.png"),
    )
    assert (found["model"]["name"], found["data"]["dataset"]) == ("hps", "nyuv2")
    assert found["tasks"] == ["semseg", "depth"] and found["data"]["image_size"] == [64, 96]
    assert found["precision"] == "bfloat16" and found["augment"]["scale"] == [0.5, 2]
    assert found["images"] == ["a.png", "b c.png", "d.png", "e,f.png"] and found["to"] == "out"


def test_the_old_spellings_stay(tmp_path):
    found = read(
        tmp_path,
        f"--config={ROOT}/configs/nyuv2.py:model=hps",
        *("--config.tasks=('semseg','depth')", "--config.data.image_size=(64, 96)"),
        *("--config.precision=float32", "--config.augment.scale=0.5", "--config.augment.scale=2"),
        "--images=a.png",
    )
    assert found["tasks"] == ["semseg", "depth"] and found["data"]["image_size"] == [64, 96]
    assert found["precision"] == "float32" and found["augment"]["scale"] == [0.5, 2]
    assert found["images"] == ["a.png"]


def test_a_recipe_of_the_current_folder_goes_before_the_packages(tmp_path):
    (tmp_path / "configs").mkdir()
    recipe = "from emanet_jax.config import default_config as get_config\n"
    (tmp_path / "configs" / "mine.py").write_text(recipe)
    (tmp_path / "configs" / "cityscapes.py").write_text(recipe)
    for name, dataset in (("mine", "nyuv2"), ("cityscapes", "nyuv2"), ("synthrooms", "synthrooms")):
        assert read(tmp_path, f"--config={name}", cwd=tmp_path)["data"]["dataset"] == dataset


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("semseg", ("semseg",)),
        ("semseg, depth,", ("semseg", "depth")),
        ("(semseg,depth)", ("semseg", "depth")),
        ("['semseg']", ("semseg",)),
        ("288,384", (288, 384)),
        ("288x384", (288, 384)),
        ("0.5, 2", (0.5, 2)),
        ("3", (3,)),
        ("()", ()),
        ("", ()),
    ],
)
def test_words_for_tuples(word, value):
    assert cli._Tuple().parse(word) == value


def test_a_size_is_written_with_x_or_a_comma():
    assert cli.image_size("size", "64x96") == cli.image_size("size", "64,96") == (64, 96)
    for wrong in ("64", "64*96", "64x100", "(64,96)"):
        with pytest.raises(UserError, match=r"--size=.*(write it as 288x384|multiples of 32)"):
            cli.image_size("size", wrong)
