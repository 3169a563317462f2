"""Errors of the user's: one line, status 1, and nothing is left or changed.

Some thirty through the real commands, and a look at every `UserError` that the package can raise.
"""

import ast
import hashlib
import re
import resource
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from emanet_jax.errors import listed
from tests import forks
from tests.conftest import ROOT
from tests.data.layouts_cityscapes import official_name, official_paths
from tests.errors.files import (
    NETWORK,
    Damage,
    array,
    edited,
    flipped,
    removed,
    truncated,
    twin,
    written,
)

ADDRESS_SPACE = 24 * 2**30  # bytes: a size that nobody checks ends in MemoryError, not in swapping

TRAIN = (
    f"--config={ROOT}/tests/tiny.py:{NETWORK}",
    "--workdir=new",
    "--config.model.overrides={}",
    "--config.tasks=('depth',)",
    "--config.checkpoint.best_metric=depth/rmse_m",
    "--config.data.train_examples=8",
    "--config.data.val_examples=4",
)
IMPORT = (*(x for x in TRAIN if "workdir" not in x), "--from=weights.npz", "--to=imported")
NYUV2 = (
    f"--config={ROOT}/configs/nyuv2.py",
    *("--config.data.manual_dir=nyuv2", "--config.data.image_size=(32,64)", "--output=checked"),
)
LABELED = (*NYUV2, "--config.data.layout=labeled", "--config.data.manual_dir=nyuv2.mat")
OFFICIAL = (
    f"--config={ROOT}/configs/cityscapes.py",
    *("--config.data.layout=official", "--config.data.manual_dir=official"),
    *("--config.data.image_size=(64,128)", "--output=checked"),
)
PASCAL = (
    f"--config={ROOT}/configs/pascal_context.py",
    *("--config.data.manual_dir=pascal", "--config.data.image_size=(64,64)", "--output=checked"),
)
EVAL = ("--mode=eval", "--workdir=run")
PREDICT = ("--workdir=run", "--output=out")
PHOTOS = "official/leftImg8bit/val/frankfurt"
COMPARE = ("--workdirs=run,twin", "--output=new", "--images=0")
EXPORT = ("--workdir=run", "--format=stablehlo", "--output=new")
SWEEP = (f"--config={ROOT}/tests/tiny.py", "--workdir=new", "--networks=hps")
SHARD = "data/synthrooms/32x64_8_4_seed0/2.0.0/synthrooms-val.array_record-00000-of-00001"
IDS = "pascal/ImageSets/Context/train.txt"
DEPTHS = official_paths(Path("official"), "train", official_name("train", 1))["depth"]
FAULTY = "from emanet_jax import config\n\ndef get_config(arg=None):\n    return 1 / 0\n"


class Row(NamedTuple):
    """A command that must fail.

    Attributes:
        module: of `python -m`.
        arguments: of the command line, in a copy of the folder that `tests.errors.files` writes.
        words: a regular expression that the one line must contain.
        damage: done to the folder before.
        largest_file: bytes after which the disk is full.
    """

    module: str
    arguments: tuple[str, ...]
    words: str
    damage: Damage = lambda folder: None
    largest_file: int | None = None


ROWS = {
    # Flags and config files
    "an unknown flag": Row("main", (*TRAIN, "--wrkdir=x"), "wrkdir.*'workdir'"),
    "no config": Row("main", ("--workdir=new",), "needs --config, such as"),
    "no such config": Row(
        "main", ("--config=gone.py", "--workdir=new"), "--config=gone.py: there is no such file"
    ),
    "a config that raises": Row(
        "main",
        ("--config=mine.py", "--workdir=new"),
        "--config=mine.py.*division by zero",
        written("mine.py", FAULTY),
    ),
    "a config of an older version": Row(
        "main",
        ("--config=run/config.json", "--workdir=new"),
        "run/config.json.*lacks remat",
        edited("run/config.json", remat=...),
    ),
    "an unknown key": Row(
        "main", (*TRAIN, "--config.data.sise=3"), "--config.data.sise=3: .*no key 'data.sise'"
    ),
    "a value of another type": Row(
        "main",
        (*TRAIN, "--config.data.image_size=(32.0,64.0)"),
        r"config.data.image_size is \(32.0, 64.0\)",
    ),
    "a value out of range": Row(
        "main", (*TRAIN, "--config.epochs=nan"), "config.epochs is nan; it must be positive"
    ),
    "values that do not fit": Row(
        "main", (*TRAIN, "--config.batch_size=6"), "config.batch_size is 6; .* a multiple of 4"
    ),
    "a network without its backbone": Row(
        "models", ("--model=mtan", "--backbone=resnet34"), "mtan can be built on resnet34"
    ),
    # Places to write to
    "a workdir that is a file": Row("main", (*TRAIN, "--workdir=weights.npz"), "weights.npz"),
    "a full disk": Row(
        "data.check",
        (*NYUV2, "--config.data.data_dir=data/full"),
        "data/full/nyuv2/.* cannot be written.*File too large",
        largest_file=60000,
    ),
    # Files of data sets
    "an array of NaN": Row(
        "data.check",
        NYUV2,
        "image/1.npy: values must be finite",
        array("nyuv2/train/image/1.npy", np.full((32, 64, 3), np.nan)),
    ),
    "an array of objects, which could run code": Row(
        "data.check",
        NYUV2,
        "image/1.npy.*[Oo]bject",
        array("nyuv2/train/image/1.npy", np.array([{}], object)),
    ),
    "an array that is gone": Row(
        "data.check", NYUV2, "label/1.npy is missing", removed("nyuv2/train/label/1.npy")
    ),
    "half an HDF5 file": Row("data.check", LABELED, "nyuv2.mat.*truncated", truncated("nyuv2.mat")),
    "half a picture": Row("data.check", OFFICIAL, "disparity.png.*truncated", truncated(DEPTHS)),
    "an id that is a path": Row(
        "data.check", PASCAL, r"train.txt names '\.\./x'", written(IDS, "../x\n")
    ),
    # Runs
    "no run": Row("main", ("--mode=eval", "--workdir=für mich"), "für mich holds no run"),
    "a flipped bit of the weights": Row(
        "main",
        EVAL,
        "manifest.ocdbt is damaged",
        flipped("run/checkpoints/0/state/manifest.ocdbt"),
    ),
    "half a shard of records": Row("main", EVAL, f"{SHARD}.*damaged", truncated(SHARD)),
    "another network to go on with": Row(
        "main",
        (*TRAIN, "--workdir=run"),
        r"run holds a run with config.tasks = \['semseg'\], not \['depth'\]",
        edited("run/config.json", tasks=["semseg"]),
    ),
    "half a line of metrics": Row(
        "main",
        (*TRAIN, "--workdir=run"),
        "metrics.jsonl, line 2 is",
        written("run/metrics.jsonl", '{"step": 1}\n{"ste'),
    ),
    # Weights
    "a flipped bit in a .pth file": Row(
        "convert",
        (*IMPORT, "--from=weights.pth"),
        "weights.pth cannot be read",
        flipped("weights.pth"),
    ),
    "weights of another network": Row(
        "convert",
        IMPORT,
        r"are missing.*1 are surplus \(x\)",
        lambda folder: np.savez(folder / "weights.npz", x=1.0),
    ),
    "a run over a run": Row("convert", (*IMPORT, "--to=run"), "--to=.*run is there.*--overwrite"),
    "a run on a full disk": Row(
        "convert", IMPORT, "--to=.*imported cannot.*File too large", largest_file=1000
    ),
    # Predictions
    "no photos": Row("predict", (*PREDICT, "--images=x/*.jpg"), r"--images=x/\*.jpg stands for no"),
    "predictions over the photos": Row(
        "predict",
        ("--workdir=run", f"--output={PHOTOS}", f"--images={PHOTOS}"),
        "would write over the photo",
    ),
    # Comparisons and sweeps
    "runs of other tasks": Row(
        "compare", COMPARE, "run and .*twin cannot be compared: tasks", twin(tasks=["semseg"])
    ),
    "half the results": Row(
        "compare",
        ("--workdirs=run", "--output=new", "--images=0"),
        "results.json cannot be read",
        truncated("run/results.json"),
    ),
    "a sweep of an unknown network": Row(
        "sweep", (*SWEEP, "--networks=hps,x"), "--networks=x is unknown.*ema_net"
    ),
    "a sweep below a file": Row(
        "sweep", (*SWEEP, "--workdir=weights.npz/x"), "--workdir=.*weights.npz/x cannot be"
    ),
    # Exports
    "an export over a run": Row(
        "export", (*EXPORT, "--output=run", "--overwrite"), "--output=.*run is no export"
    ),
    "an export on a full disk": Row(
        "export", EXPORT, "--output=.*new cannot be written.*File too large", largest_file=2000
    ),
}
# TFDS's progress bars, which end when the builder's generator does.
_BAR = re.compile(r"(Generating|Shuffling) .*\d+%\|.*")
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder with one of everything."""
    root = tmp_path_factory.mktemp("pristine")
    done = forks.python("-m", "tests.errors.files", str(root), folder=root)
    assert done.returncode == 0, done.stderr
    return root


def listing(root: Path) -> dict[str, str]:
    """{file: its hash} of a folder; empty folders and the locks of records left out."""
    files = [x for x in sorted(root.rglob("*")) if x.is_file() and x.name != ".lock"]
    return {str(x.relative_to(root)): hashlib.sha256(x.read_bytes()).hexdigest() for x in files}


def lines_of(err: str) -> list[str]:
    """The lines of standard error, progress bars left out."""
    lines = (_COLOURS.sub("", line).strip() for line in err.splitlines())
    return [line for line in lines if line and not _BAR.fullmatch(line)]


@pytest.mark.parametrize("name", ROWS)
def test_an_error_is_one_line_and_leaves_nothing(pristine, tmp_path, name):
    row = ROWS[name]
    folder = tmp_path / "here"
    shutil.copytree(pristine, folder)
    row.damage(folder)
    before = listing(folder)
    module = f"emanet_jax.{row.module}"
    limits = {resource.RLIMIT_AS: ADDRESS_SPACE}
    if row.largest_file is not None:
        limits[resource.RLIMIT_FSIZE] = row.largest_file
    done = forks.python("-m", module, *row.arguments, folder=folder, limits=limits)
    assert done.returncode == 1, done
    lines = lines_of(done.stderr)
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(row.words, lines[0]), lines[0]
    assert listing(folder) == before
    assert not (folder / "new").exists() and not (folder / "imported").exists()
    assert not list(folder.rglob("incomplete*")) and not list(folder.rglob("*.part*"))


def test_names_in_a_message_are_few_short_and_in_one_line():
    assert listed([]) == "none"
    assert listed(iter("abcde")) == "a, b, c, d, e"
    assert listed("abc", most=2) == "a, b and 1 more"
    assert listed(map(str, range(3000))) == "0, 1, 2, 3, 4 and 2,995 more"
    assert listed(["a\nb\x1b[2J", "c" * 300]) == rf"a\nb\x1b[2J, {'c' * 200}..."


# --- every UserError of the package --------------------------------------------------------------

# Beginnings of messages that need not keep the rule below, and why.
EXCEPTIONS = {
    "absl_words": "which name the flag",
    "outcome['error']": "the message of another process's UserError",
    "'{rest[1]}' is no flag": "the word itself is all there is",
    "config argument '{part}'": "the argument itself is all there is",
    "{longest} is too long": "the word itself is all there is",
    "{damage}; choose another": "begins with the path of the damaged file",
    "a global batch of {batch_size}": "two numbers that do not fit, from Python",
    "tasks is empty": "an argument without a value to show",
    "this network has no CTAL": "an object, from Python",
    "{name} was made for": "a parameter's name",
    "the state dict": "keys of the state dict, which may come from Python",
    "this needs {error.name}": "a library's name",
    "an image ": "an array, from Python",
    "{repository} cannot be uploaded": "a repository's name",
    "the export": "no flag makes it right",
}
# Names and attributes that hold a file, a folder or a place in one.
_PLACE = re.compile(r"(paths?|place|folder|directory|workdir|file|root|source|output|data_dir)$")


def raised(source: str) -> list[ast.expr]:
    """The messages of every UserError that a module makes."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [x.args[0] for x in calls if ast.unparse(x.func).endswith("UserError") and x.args]


def shown(message: ast.expr) -> str:
    """A message as it stands in the source, with {expressions} in it."""
    if isinstance(message, ast.Constant):
        return message.value
    if isinstance(message, ast.JoinedStr):
        return "".join(
            x.value if isinstance(x, ast.Constant) else f"{{{ast.unparse(x.value)}}}"
            for x in message.values
        )
    return ast.unparse(message)


def names_something(message: ast.expr) -> bool:
    """Whether a message has a flag, a key of the config, a path, or an argument and its value."""
    text = shown(message)
    if re.search(r"--[a-z{]|config\.[a-z{]", text):
        return True
    if not isinstance(message, ast.JoinedStr):
        return False
    values = [x.value for x in message.values if isinstance(x, ast.FormattedValue)]
    inner = [node for value in values for node in ast.walk(value)]
    names = [x.id for x in inner if isinstance(x, ast.Name)]
    names += [x.attr for x in inner if isinstance(x, ast.Attribute)]
    if any(_PLACE.search(name) or re.fullmatch("_[A-Z_]+", name) for name in names):  # or a flag
        return True
    # "upsampling is 'x'; ...", "a backbone 'x' ...", "unknown network 'x'; ...", "...; choose from"
    if re.search(r"(\b(data set|backbone|network|task|name)|\{what\}) '\{", text):
        return True
    argument = r"(?!it )(\w+|\{\w+\}( of \{\w+\})?) (is|are) '?\{|unknown .*? '?\{"
    return bool(re.match(argument, text) or re.search(r"choose (from|one or more of) \{", text))


def test_every_user_error_names_what_it_is_about():
    odd, used = [], set()
    for path in sorted((ROOT / "emanet_jax").rglob("*.py")):
        for message in raised(path.read_text()):
            text = shown(message)
            known = [beginning for beginning in EXCEPTIONS if text.startswith(beginning)]
            used.update(known)
            if known:
                continue
            if not names_something(message):
                odd.append(f"{path.relative_to(ROOT)}:{message.lineno}: {text}")
            elif not re.search(r"[.?}]$", text) or "\n" in text:
                odd.append(f"{path.relative_to(ROOT)}:{message.lineno}: no sentence: {text}")
    assert not odd, "\n".join(odd)
    assert used == set(EXCEPTIONS), "exceptions that are no longer needed"


@pytest.mark.parametrize(
    "message",
    [
        "UserError('this cannot be read.')",
        "UserError(f'{error}')",
        "UserError(f'failed {error}.')",
        "UserError(f'it is {value}.')",
        "UserError(f'it must be at least {low}.')",
        "UserError(f'the file cannot be read: {error.strerror}.')",
        "UserError('the configuration is wrong - sorry.')",
        "UserError(str(error))",
    ],
)
def test_a_message_that_names_nothing_is_found(message):
    assert not names_something(raised(f"raise {message}")[0])
