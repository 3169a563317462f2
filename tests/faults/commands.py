"""Wrong command lines and config files."""

from tests.conftest import ROOT
from tests.faults.builders import (
    command,
    data,
    edited,
    file_at,
    folder_at,
    garbage,
    importing,
    linked,
    train,
    truncated,
    written,
)

_START = "from emanet_jax import config\n\ndef get_config(arg=None):\n    "
_EVAL = ("--mode=eval", "--workdir=run")
_CONFIG = "run/config.json"
_AGAIN = train(f"--config={_CONFIG}")
_MINE = train("--config=mine.py")

FLAGS = {
    "no workdir": command("main").but("--workdir"),
    "no config": command("main", "--workdir=new").but("needs --config, such as"),
    "an unknown flag": train("--wrkdir=x").but("wrkdir", "workdir"),
    "a word": train("new").but("'new' is no flag"),
    "an unknown mode": train("--mode=test").but("--mode=test", "train.eval"),
    "an unknown checkpoint": command("main", *_EVAL, "--checkpoint=first").but("best.latest"),
    "a word for a number": train("--process_count=two").but("process_count=two"),
    "a negative process": train("--process_id=-1").but("process_id=-1"),
    "half of a group of processes": train("--process_id=1").but("belong together"),
    "an empty workdir": train("--workdir=").but("--workdir=", "not be empty"),
    "convert nothing": command("convert").but("--from", "--to"),
    "convert to nowhere": command("convert", "--from=weights.npz").but("--to=None"),
    "convert an empty name": importing("--from=").but("--from=", "not be empty"),
    "convert without a config": command("convert", "--from=weights.npz", "--to=new").but(
        "give --config"
    ),
    "convert from a size of 0": importing("--trained_at=0x0").but("--trained_at=0x0", "32"),
    "leave out by half an expression": importing("--leave_out=(").but("no regular expression"),
    "leave out nothing": importing("--leave_out=zzz").but("--leave_out=zzz matches no name"),
    "an unknown network": command("models", "--model=x").but("--model=x is unknown", "ema_net"),
    "an unknown backbone": command("models", "--backbone=x").but("--backbone=x is unknown"),
    "a network without its backbone": command("models", "--model=mtan", "--backbone=resnet34").but(
        "none of mtan can be built on resnet34"
    ),
    "a size that is no multiple": command("models", "--image_size=33x64").but("33x64", "of 32"),
    "a size in other digits": command("models", "--image_size=²x64").but("²x64", "288x384"),
    "a size for a wall": command("models", "--image_size=32000000x32").but("32000000x32", "16384"),
    "check without config": command("data.check").but("--config is missing"),
    "check no pictures": data("nyuv2", "--images=0").but("--images=0", "at least 1"),
    "check against what": data("nyuv2", "--expect=train=-3").but("--expect=train=-3", "795"),
}

_PHOTO = "official/leftImg8bit/val/frankfurt"
_PREDICT = ("predict", "--workdir=run", "--output=out")
PREDICT = {
    "no photos": command(*_PREDICT).but("give either --images"),
    "no file matches": command(*_PREDICT, "--images=photos/*.jpg").but("photos/.*stands for no"),
    "of nothing": command("predict", "--workdir=gone", "--output=out", "--images=official").but(
        "--images=official stands for no picture"
    ),
    "by no run": command("predict", "--workdir=elsewhere", "--output=o", f"--images={_PHOTO}").but(
        "elsewhere holds no run"
    ),
    "nothing to write": command(*_PREDICT, f"--images={_PHOTO}", "--nofigures", "--noarrays").but(
        "--nofigures and --noarrays"
    ),
    "at no size": command(*_PREDICT, f"--images={_PHOTO}", "--size=33x64").but("--size=33x64"),
    "over the photos": command(
        "predict", "--workdir=run", f"--output={_PHOTO}", f"--images={_PHOTO}"
    ).but("would write over the photo"),
    "into a file": command(
        "predict", "--workdir=run", "--output=weights.npz", f"--images={_PHOTO}"
    ).but("weights.npz cannot be made: File exists"),
    "no video": command(*_PREDICT, "--video=gone.mp4").but("--video=gone.mp4: there is no such"),
    "a video of weights": command(*_PREDICT, "--video=weights.npz").but(
        "--video=weights.npz cannot be read as a video"
    ),
    "no frames": command(*_PREDICT, "--video=gone.mp4", "--every=0").but("every=0", "positive"),
}

CONFIG_FILES = {
    "missing": train("--config=nowhere.py").but("--config=nowhere.py: there is no such file"),
    "missing, after a space": command("main", "--workdir=new", "--config", "gone.py").but(
        "gone.py"
    ),
    "a folder": train("--config=data").but("--config=data: there is no such file"),
    "a link to itself": train("--config=loop.py").but(
        "--config=loop.py", damage=linked("loop.py", "loop.py")
    ),
    "empty": _MINE.but("mine.py is no config file", damage=written("mine.py", "")),
    "binary": train("--config=ein Lauf.py").but(
        "ein Lauf.py cannot be run", damage=garbage("ein Lauf.py")
    ),
    "half a line": _MINE.but("mine.py.*SyntaxError", damage=written("mine.py", "def f(:\n")),
    "a fault of its own": _MINE.but(
        "mine.py.*division by zero", damage=written("mine.py", _START + "return 1 / 0\n")
    ),
    "an unknown name": _MINE.but(
        "mine.py.*no attribute 'no'", damage=written("mine.py", _START + "return config.no()\n")
    ),
    "a dictionary": train("--config=other.py").but(
        "other.py.*returns a ConfigDict", damage=written("other.py", _START + "return {}\n")
    ),
    "a key too few": _MINE.but(
        "lacks seed",
        damage=written(
            "mine.py", _START + "c = config.default_config()\n    del c.seed\n    return c\n"
        ),
    ),
    "an unknown argument": train(f"--config={ROOT}/configs/nyuv2.py:modle=hps").but("modle=hps"),
    "an argument without value": train(f"--config={ROOT}/configs/nyuv2.py:hps").but("KEY=VALUE"),
    "config.json empty": _AGAIN.but("--config=run/config.json", damage=written(_CONFIG, "")),
    "config.json in part": _AGAIN.but("--config=run/config.json.*line", damage=truncated(_CONFIG)),
    "config.json of a list": _AGAIN.but("is \\[1\\]", damage=written(_CONFIG, "[1]")),
    "config.json in Latin-1": _AGAIN.but(
        "utf-8", damage=written(_CONFIG, '{"é": 1}'.encode("latin-1"))
    ),
    "config.json with a mark": _AGAIN.but("BOM", damage=written(_CONFIG, "\ufeff{}")),
    "config.json of an older version": _AGAIN.but(
        "another version: it lacks remat and has no key", damage=edited(_CONFIG, remat=...)
    ),
    "config.json of a newer version": _AGAIN.but("has later too", damage=edited(_CONFIG, later=1)),
    "config.json with a word": _AGAIN.but(
        "config.batch_size is 'four'; it must be a whole", damage=edited(_CONFIG, batch_size="four")
    ),
    "config.json without a group": _AGAIN.but(
        "config.model of .* is 'hps'", damage=edited(_CONFIG, model="hps")
    ),
    "config.json with a list of weights": _AGAIN.but(
        "config.task_weights", damage=edited(_CONFIG, task_weights=[1, 2])
    ),
    "config.json with null": _AGAIN.but("epochs is None", damage=edited(_CONFIG, epochs=None)),
    "results.json": train("--config=run/results.json").but("run/results.json is of another"),
}

OUTPUTS = {
    "a workdir that is a file": train("--workdir=weights.npz").but("--workdir=.*weights.npz"),
    "a workdir below a file": train("--workdir=weights.npz/run").but("weights.npz/run"),
    "a workdir of the system": train("--workdir=/proc/run").but("--workdir=/proc/run"),
    "a workdir that links to itself": train("--workdir=loop").but(
        "--workdir=.*/loop", damage=linked("loop", "loop")
    ),
    "records in a file": train("--config.data.data_dir=weights.npz").but("config.data.data_dir"),
    "records in a bucket": train("--config.data.data_dir=gs://b/x").but("data_dir is gs://b/x"),
    "records of the system": train("--config.data.data_dir=/proc/no").but("data_dir: /proc/no"),
    "a folder for the lock": train("--config.data.data_dir=other").but(
        "\\.lock", damage=folder_at("other/synthrooms/.lock")
    ),
    "a full disk for records": data("nyuv2", "--config.data.data_dir=data/full").but(
        "data/full/nyuv2/.* cannot be written", "File too large", full=60000
    ),
    "sheets in a file": data("nyuv2", "--output=weights.npz").but("--output=weights.npz"),
    "a sheet on a full device": data("nyuv2", "--output=out").but(
        "--output=out cannot be written: No space",
        damage=lambda folder: [
            file_at("out/val.png")(folder),
            linked("out/train.png", "/dev/full")(folder),
        ],
    ),
    "a run in a bucket": importing("--to=gs://b/x").but("--to=gs://b/x is no place", "gcloud"),
    "a run over a run": importing("--to=run").but("--to=.*/run is there already; --overwrite"),
    "a run over a folder": importing("--to=data", "--overwrite").but("--to=.*/data is no run"),
    "a run below a file": importing("--to=weights.pth/run").but("--to=.*weights.pth/run cannot"),
    "a run on a full disk": importing().but("--to=.*imported cannot.*too large", full=1000),
    "weights of another ending": command("convert", "--from=run", "--to=o.pth").but("--to=o.pth"),
    "weights over weights": command("convert", "--from=run", "--to=weights.npz").but("overwrite"),
    "weights below a file": command("convert", "--from=run", "--to=run/config.json/x.npz").but(
        "--to=run/config.json/x.npz cannot"
    ),
    "weights on a full disk": command("convert", "--from=run", "--to=o.npz").but(
        "--to=o.npz cannot be written: File too large", full=30000
    ),
    "weights for the system": command("convert", "--from=run", "--to=/proc/x.safetensors").but(
        "--to=/proc/x.safetensors cannot be written"
    ),
    "a run with a config": command("convert", "--from=run", "--to=o.npz", "--trained_at=32x64").but(
        "leave --trained_at out"
    ),
}
