"""Runs whose files are damaged or gone: evaluated, resumed, exported, replayed, referred to."""

import json

from tests.faults.builders import (
    command,
    edited,
    file_at,
    flipped,
    folder_at,
    garbage,
    linked,
    removed,
    train,
    truncated,
    written,
)

_EVAL = command("main", "--mode=eval", "--workdir=run")
_RESUME = train("--workdir=run")
_DEBUG = command("training.debug_nan", "--workdir=run")
_BAD_STEP = "run/bad_step.msgpack"
_DELTA = "--config.checkpoint.best_metric=delta_m"
_REFERENCE = train(_DELTA, "--config.checkpoint.reference=run/results.json")
_CONFIG, _METRICS = "run/config.json", "run/metrics.jsonl"
_STEP = "run/checkpoints/0"
_RECORDS = "data/synthrooms/32x64_8_4_seed0/2.0.0"
_SHARD = f"{_RECORDS}/synthrooms-val.array_record-00000-of-00001"


def _reference(value: object):
    return written("run/results.json", json.dumps({"depth/rmse_m": value}))


WORKDIRS = {
    "eval of nothing": command("main", "--mode=eval", "--workdir=für mich/lauf 1").but(
        "für mich/lauf 1 holds no run"
    ),
    "debug nothing": command("training.debug_nan", "--workdir=nowhere").but("nowhere holds no run"),
    "eval without checkpoints": _EVAL.but("no checkpoint", damage=removed("run/checkpoints")),
    "eval, config binary": _EVAL.but("run/config.json.*utf-8", damage=garbage(_CONFIG)),
    "eval, config in part": _EVAL.but("run/config.json.*line", damage=truncated(_CONFIG)),
    "eval, config a folder": _EVAL.but("run/config.json.*directory", damage=folder_at(_CONFIG)),
    "eval, config a loop": _EVAL.but("run holds no run", damage=linked(_CONFIG, "config.json")),
    "eval, config older": _EVAL.but(
        "run/config.json.*lacks precision", damage=edited(_CONFIG, precision=...)
    ),
    "eval, config out of range": _EVAL.but(
        "eval_batch_size is -1", damage=edited(_CONFIG, eval_batch_size=-1)
    ),
    "eval, sums gone": _EVAL.but("SHA256SUMS is missing", damage=removed(f"{_STEP}/SHA256SUMS")),
    "eval, sums binary": _EVAL.but("SHA256SUMS is damaged", damage=garbage(f"{_STEP}/SHA256SUMS")),
    "eval, a bit of the weights": _EVAL.but(
        "manifest.ocdbt is damaged", damage=flipped(f"{_STEP}/state/manifest.ocdbt")
    ),
    "eval, metadata gone": _EVAL.but(
        "state/_METADATA is missing", damage=removed(f"{_STEP}/state/_METADATA")
    ),
    "eval, metrics in part": _EVAL.but(
        "metrics/metrics cannot be read", damage=written(f"{_STEP}/metrics/metrics", "{")
    ),
    "eval, another network": _EVAL.but(
        "holds other arrays", damage=edited(_CONFIG, tasks=["depth", "semseg"])
    ),
    "eval, shard in part": _EVAL.but(f"{_SHARD}.*damaged", damage=truncated(_SHARD)),
    "eval, shard gone": _EVAL.but(f"{_SHARD}.*missing", damage=removed(_SHARD)),
    "eval, records' info binary": _EVAL.but(
        "dataset_info.json.*damaged.*utf-8", damage=garbage(f"{_RECORDS}/dataset_info.json")
    ),
    "eval, records' info other": _EVAL.but(
        "dataset_info.json.*match", damage=written(f"{_RECORDS}/dataset_info.json", "{}")
    ),
    "eval, records' info gone": _EVAL.but(
        "dataset_info.json is missing", damage=removed(f"{_RECORDS}/dataset_info.json")
    ),
    "resume another network": _RESUME.but(
        "holds a run with tasks", damage=edited(_CONFIG, tasks=["semseg"])
    ),
    "resume an older run": _RESUME.but("lacks balancing", damage=edited(_CONFIG, balancing=...)),
    "resume, config a number": _RESUME.but("is 3; it must be", damage=written(_CONFIG, "3")),
    "resume, metrics in part": _RESUME.but(
        "metrics.jsonl, line 2 is", damage=written(_METRICS, '{"step": 1}\r\n{"ste')
    ),
    "resume, metrics of lists": _RESUME.but(
        "metrics.jsonl, line 1 is", damage=written(_METRICS, "[1]\n")
    ),
    "resume, metrics binary": _RESUME.but("metrics.jsonl cannot be", damage=garbage(_METRICS)),
    "resume, environment binary": _RESUME.but(
        "environment.json cannot be read", damage=garbage("run/environment.json")
    ),
    "resume, environment an object": _RESUME.but(
        "environment.json is no list", damage=written("run/environment.json", "{}")
    ),
    "resume, lock a folder": _RESUME.but("run/.lock is a folder", damage=folder_at("run/.lock")),
    "resume, checkpoints a file": _RESUME.but(
        "run/checkpoints is a file", damage=file_at("run/checkpoints")
    ),
    "resume, tensorboard a file": _RESUME.but(
        "run/tensorboard is a file", damage=file_at("run/tensorboard")
    ),
    "export nothing": command("convert", "--from=data", "--to=o.npz").but("data holds no run"),
    "reference gone": train(_DELTA, "--config.checkpoint.reference=gone.json").but("'gone.json'"),
    "reference in part": _REFERENCE.but("as JSON", damage=truncated("run/results.json")),
    "reference a list": _REFERENCE.but(
        "no results.json", damage=written("run/results.json", "[1]")
    ),
    "reference empty": _REFERENCE.but(
        "lacks depth/rmse_m", damage=written("run/results.json", "{}")
    ),
    "reference a word": _REFERENCE.but("'x' for depth/rmse_m", damage=_reference("x")),
    "reference 0": _REFERENCE.but("0 for depth/rmse_m", damage=_reference(0)),
    "debug without a bad step": _DEBUG.but(f"{_BAD_STEP} does not exist"),
    "debug a damaged step": _DEBUG.but(f"{_BAD_STEP} cannot be read", damage=garbage(_BAD_STEP)),
}
