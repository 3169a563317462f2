"""A run's config: every key with its default, what its value may be, and how it is saved.

A recipe (configs/nyuv2.py) starts from `from_argument`, changes what it differs in and returns the
config locked, so that a misspelt key is an error and not a silent default.
"""

import contextlib
import functools
import json
import math
import os
import runpy
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import ml_collections
from etils import epath

from emanet_jax import menu, strict_json
from emanet_jax.errors import UserError, check_name, end


def default_config() -> ml_collections.ConfigDict:
    """The defaults, unlocked: a config file changes what it differs in."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # A Python file that registers data sets, tasks, backbones or networks of your own; every
    # command that opens the run runs it first. Recipes that register set it to their own path.
    config.extension = ""

    config.model = ml_collections.ConfigDict()
    config.model.name = "ema_net"
    config.model.backbone = "hrnet_w18"
    config.model.variant = "paper"  # "released": as the published code, see docs/protocols.md
    config.model.pretrained = ""  # the backbone's weights: a file or "owner/name" on Hugging Face
    config.model.overrides = ml_collections.ConfigDict()  # fields of the network by name

    config.tasks = ("semseg", "depth", "normals")
    config.task_weights = ml_collections.ConfigDict({"semseg": 1.0, "depth": 1.0, "normals": 1.0})
    config.balancing = "fixed"  # how the losses become one; emanet_jax/balancing has the methods
    config.balancing_settings = ml_collections.ConfigDict()  # of the method, by name
    # Methods on gradients: tasks' backward passes after each other, or "vmapped": as one, for
    # their number times the memory.
    config.task_gradients = "looped"

    config.data = ml_collections.ConfigDict()
    config.data.dataset = "nyuv2"
    config.data.layout = "mtan"  # how the files in manual_dir are laid out
    config.data.manual_dir = ""  # the files that you have
    config.data.negate_normals = ""  # axes of stored normals to turn round, such as "yz"
    config.data.data_dir = "data"  # where the records that are built from them go
    config.data.image_size = (288, 384)
    config.data.classes = 0  # 0: the data set's usual number; nyuv2 13 or 40, cityscapes 19 or 7
    config.data.train_examples = 0  # counts and seed of procedural data sets
    config.data.val_examples = 0
    config.data.seed = 0
    config.data.threads = 4
    config.data.prefetch = 4  # batches that are read ahead
    config.data.cache = False  # keep decoded examples in memory

    config.augment = ml_collections.ConfigDict()
    config.augment.flip = True
    config.augment.scale_crop = False  # enlarge by 1, 1.2 or 1.5, cut back to the size
    config.augment.scale = (1.0, 1.0)  # any factor between, cut or padded to the size
    config.augment.max_class_share = 1.0  # of a window, redrawn up to 10 times; 1: no limit
    config.augment.brightness = 0.0  # up to +- this share of white; half of the images, as below
    config.augment.contrast = 0.0  # times up to 1 +- this
    config.augment.saturation = 0.0  # times up to 1 +- this
    config.augment.hue = 0.0  # up to +- this part of a whole turn of the colour wheel
    config.image_statistics = "imagenet"  # or "unit": images in [0, 1] as they are

    config.precision = "float32"  # or "bfloat16": what networks compute in; all else is float32
    # Or "blocks", "everything": recompute backwards instead of keeping. XLA undoes it on CPUs.
    config.remat = "nothing"
    config.accumulate = 1  # micro-batches of batch_size / accumulate images in a step
    config.max_bad_steps = 10  # steps in a row whose numbers are not finite, then the run stops

    config.epochs = 200.0
    config.batch_size = 8
    config.eval_batch_size = 8
    config.log_every_steps = 10
    config.eval_every_epochs = 5.0
    config.figure_images = 4  # of the evaluation split, drawn with labels and predictions
    config.figure_every_steps = 0  # draw them between evaluations too; 0: only at evaluations
    # Metrics that need the host, such as boundary F (3 images of 512x512 a second): "always",
    # "last" (at the end of training and with --mode=eval) or "never".
    config.host_metrics = "last"

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.l2 = 1e-4
    config.optimizer.clip_norm = ml_collections.config_dict.placeholder(float)  # None: no clipping
    config.optimizer.schedule = "cosine"  # ends just above 0; training/optim.py has the others
    config.optimizer.warmup_steps = 0  # whose rate rises from 0 at the first step

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 500  # beside one at every evaluation
    config.checkpoint.keep_latest = 2
    config.checkpoint.keep_best = 1
    config.checkpoint.best_metric = ""  # "TASK/METRIC" or "delta_m"; "": the first task's primary
    config.checkpoint.reference = ""  # results.json of a single-task run, for delta_m

    config.mesh = ml_collections.ConfigDict()
    config.mesh.spatial = 1  # devices that share the rows of an image

    # metrics.jsonl and figure.png alone are "jsonl"; curves and figures too, by CLU: "tensorboard".
    config.writers = "tensorboard"
    config.profile = False  # a trace of a few steps for TensorBoard
    return config


# What may stand behind a config file's name: --config=configs/nyuv2.py:model=hps,backbone=hrnet_w18
ARGUMENTS = {
    "model": ("model", "name"),
    "backbone": ("model", "backbone"),
    "variant": ("model", "variant"),
}

# Backbones of the networks that cannot be built on every one.
USUAL_BACKBONES = {
    "mtan": "segnet",
    "ati_net": "segnet",
    "mti_net": "hrnet_w18",
    "ema_net_ms": "hrnet_w18",
}

# ImageNet weights by backbone, for recipes that start from them. torchvision's of Swin V2 are files
# to fetch by hand: --config.model.pretrained=swin_v2_t.pth
IMAGENET = {
    "hrnet_w18": "timm/hrnet_w18_small_v2.ms_in1k",
    "resnet34": "timm/resnet34.tv_in1k",
    "resnet50": "timm/resnet50.tv_in1k",
}


def from_argument(arg: str | None, backbone: str = "hrnet_w18") -> ml_collections.ConfigDict:
    """The defaults with a config file's argument, such as "model=hps,backbone=resnet50", unlocked.

    Args:
        arg: what stands behind the config file's name.
        backbone: of networks that have no usual one, if `arg` names none.

    Raises:
        UserError: the argument is not of this form or a key is unknown.
    """
    chosen: dict[str, str] = {}
    for part in arg.split(",") if arg else []:
        key, separator, value = part.partition("=")
        if not separator or key not in ARGUMENTS:
            raise UserError(
                f"config argument '{part}' is not understood; it must be KEY=VALUE with KEY one "
                f"of {', '.join(ARGUMENTS)}, as in nyuv2:model=hps{end(key, ARGUMENTS)}"
            )
        chosen[key] = value
    config = default_config()
    chosen.setdefault("backbone", USUAL_BACKBONES.get(chosen.get("model", ""), backbone))
    for key, value in chosen.items():
        group, field = ARGUMENTS[key]
        config[group][field] = value
    return config


LARGEST_SIDE = 16384  # pixels of an image, so that a slip does not fill the memory

# Groups whose keys each config chooses itself.
FREE = ("task_weights", "model.overrides", "balancing_settings")


class Rule(NamedTuple):
    """A test of a value, and in words how the value must be."""

    words: str
    holds: Callable[[Any], bool]


def _between(low: int, high: int) -> Rule:
    return Rule(f"between {low} and {high}", lambda x: low <= x <= high)


def _positive(high: int) -> Rule:
    return Rule(f"positive and at most {high}", lambda x: 0 < x <= high)


def _is_size(value: tuple[int, ...]) -> bool:
    return len(value) == 2 and all(32 <= side <= LARGEST_SIDE and side % 32 == 0 for side in value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


_COUNT, _SEED = _positive(10**9), _between(0, 2**31 - 1)
_WEIGHT = Rule("finite and at least 0", lambda x: 0 <= x < math.inf)

# Ranges of the values that nothing else checks; types are those of the defaults.
RULES: dict[str, Rule] = {
    "seed": _SEED,
    "data.seed": _SEED,
    "data.image_size": Rule(
        f"(height, width), multiples of 32 from 32 to {LARGEST_SIDE}", _is_size
    ),
    "data.threads": _between(0, 1024),
    "data.prefetch": _between(0, 10000),
    "epochs": _positive(10**6),
    "eval_every_epochs": _positive(10**6),
    "batch_size": _between(1, 65536),
    "eval_batch_size": _between(1, 65536),
    "log_every_steps": _COUNT,
    "accumulate": _COUNT,
    "max_bad_steps": _COUNT,
    "figure_images": _COUNT,
    "figure_every_steps": _between(0, 10**9),
    "checkpoint.every_steps": _COUNT,
    "checkpoint.keep_latest": _COUNT,
    "checkpoint.keep_best": _COUNT,
    "optimizer.learning_rate": Rule("positive and finite", lambda x: 0 < x < math.inf),
    "optimizer.l2": _WEIGHT,
    "optimizer.clip_norm": Rule(
        "positive and finite, or None", lambda x: x is None or 0 < x < math.inf
    ),
}

# The names that a value is one of.
CHOICES: dict[str, Collection[str]] = {
    "model.name": menu.NETWORKS,
    "model.backbone": menu.BACKBONES,
    "model.variant": ("paper", "released"),
    "balancing": menu.METHODS,
    "task_gradients": ("looped", "vmapped"),
    "data.dataset": menu.DATASETS,
    "image_statistics": ("imagenet", "unit"),
    "precision": ("float32", "bfloat16"),
    "remat": ("nothing", "blocks", "everything"),
    "host_metrics": ("always", "last", "never"),
    "writers": ("jsonl", "tensorboard"),
    "optimizer.schedule": ("cosine", "cosine_restarts", "halved", "constant"),
}
SHORT = {"bf16": "bfloat16", "fp32": "float32"}  # other spellings of a precision

_TYPES = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a key such as "model.name"."""
    return functools.reduce(lambda group, name: group[name], key.split("."), config)


def check_config(config: Mapping[str, Any]) -> None:
    """Looks at every value of a config that is complete, by itself; imports no large library.

    Raises:
        UserError: a key is missing or surplus, or a value is not of its type, out of its range or
            an unknown name.
    """
    _check_types(config, default_config(), "", "the config")
    load_extension(config["extension"])
    for key, names in CHOICES.items():
        check_name(f"config.{key}", value_at(config, key), names)
    data = config["data"]
    menu.check_layout(data["dataset"], data["layout"])
    menu.check_tasks(data["dataset"], config["tasks"], menu.TASKS[data["dataset"]])
    for key, rule in RULES.items():
        _check(key, value_at(config, key), rule)
    for name, weight in config["task_weights"].items():
        _check(f"task_weights.{name}", weight, Rule("a number", _is_number))
        _check(f"task_weights.{name}", weight, _WEIGHT)
    _check_finite("config", config)


def _check_finite(name: str, value: Any) -> None:
    """Refuses NaN and infinities, which config.json has no words for, at any depth."""
    if hasattr(value, "items"):
        for key, x in value.items():
            _check_finite(f"{name}.{key}", x)
    elif isinstance(value, (tuple, list)):
        for x in value:
            _check_finite(name, x)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} is {value!r}; it must be finite.")


def spell_out(config: ml_collections.ConfigDict) -> None:
    """Replaces the short spelling of a value by its name, in place."""
    for short, name in SHORT.items():
        if "precision" in config and config.precision == short:  # keys are checked afterwards
            config.precision = name


def _check(key: str, value: Any, rule: Rule) -> None:
    if not rule.holds(value):
        raise UserError(f"config.{key} is {value!r}; it must be {rule.words}.")


def _check_types(values: Any, defaults: Mapping[str, Any], group: str, where: str) -> None:
    """Compares the keys and types of a group, such as "data.", with those of the defaults."""
    if not hasattr(values, "items"):
        name = f"config.{group.rstrip('.')}" if group else where
        raise UserError(f"{name} of {where} is {values!r}; it must be a group of named values.")
    if group.rstrip(".") in FREE:
        return
    missing, surplus = sorted(set(defaults) - set(values)), sorted(set(values) - set(defaults))
    if missing or surplus:
        names = [", ".join(group + name for name in x) or "no key" for x in (missing, surplus)]
        raise UserError(
            f"{where} is of another version: it lacks {names[0]} and has {names[1]} too many; "
            "emanet_jax/config.py has all keys with their defaults."
        )
    for name, default in defaults.items():
        if hasattr(default, "items"):
            _check_types(values[name], default, f"{group}{name}.", where)
        elif default is None:  # a number that may be left open
            _check(group + name, values[name], Rule("a number or None", _is_number_or_none))
        else:
            _check(group + name, values[name], _of_type(default))


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)


def _of_type(default: Any) -> Rule:
    """Demands the default's type; whole numbers will do for floats, and JSON's lists for tuples."""
    kind = type(default)
    if kind is tuple:
        inner = _of_type(default[0])
        holds = lambda x: isinstance(x, (tuple, list)) and all(map(inner.holds, x))  # noqa: E731
        return Rule(f"a tuple like {default}", holds)
    return Rule(_TYPES[kind], _is_number if kind is float else lambda x: type(x) is kind)


def to_json(config: ml_collections.ConfigDict) -> str:
    """The whole config as JSON text, the content of a run's config.json."""
    return strict_json.dumps(json.loads(config.to_json()), indent=2) + "\n"


def read_config(path: epath.Path, where: str) -> ml_collections.ConfigDict:
    """The locked config in a run's config.json; messages call it `where`.

    Raises:
        UserError: it is no such file, or its keys or types are not `default_config`'s.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where} is no config.json of a run: {error}.") from error
    return parse_config(values, where)


def parse_config(values: Any, where: str) -> ml_collections.ConfigDict:
    """The locked config that `to_json` wrote, from what JSON made of its text.

    Raises:
        UserError: keys or types are not `default_config`'s.
    """
    values = _with_tuples(values)
    config = default_config()
    _check_types(values, config, "", where)
    for group in FREE:  # whose defaults would mix with the values
        *outer, name = group.split(".")
        (config[outer[0]] if outer else config)[name] = ml_collections.ConfigDict()
    config.update(values)
    load_extension(config.extension)
    return config.lock()


def load_extension(path: str) -> None:
    """Runs the Python file of config.extension; does nothing for "", or if it ran already.

    Raises:
        UserError: there is no such file, or it ends with an error.
    """
    if not path:
        return
    if not os.path.isfile(path):
        raise UserError(f"config.extension is '{path}', but there is no such file.")
    with users_code(f"config.extension, {path},"):
        run_file(os.path.abspath(path))


@contextlib.contextmanager
def users_code(file: str) -> Iterator[None]:
    """Turns all errors of the `with` block, which runs a file of the user's, into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the file raises: its type and words are in the sentence
        raise UserError(f"{file} ends with an error ({type(error).__name__}: {error}).") from error


@functools.cache
def run_file(path: str) -> dict[str, Any]:
    """The names that a Python file of the user's defines; it runs once in a process.

    Args:
        path: absolute.
    """
    return runpy.run_path(path)


def _with_tuples(value: Any) -> Any:
    """A JSON value with its lists as the tuples that they were."""
    if isinstance(value, dict):
        return {key: _with_tuples(x) for key, x in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def flatten(config: ml_collections.ConfigDict) -> dict[str, str | int | float | bool]:
    """The config as {"model.name": "ema_net", ...}, with text for what is no plain value."""
    rows: dict[str, str | int | float | bool] = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            rows.update({f"{key}.{inner}": x for inner, x in flatten(value).items()})
        else:
            rows[key] = value if isinstance(value, (str, int, float, bool)) else str(value)
    return rows
