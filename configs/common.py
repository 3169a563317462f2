"""Defaults that every config starts from, and the ":key=value,..." argument of a config file.

Every key that the code reads is here; `get_config` returns a locked copy, so a misspelt key is an
error and not a silent default.
"""

import ml_collections

from emanet_jax.errors import UserError

# What may stand behind a config file's name: --config=configs/nyuv2.py:model=hps,backbone=hrnet_w18
ARGUMENTS = {
    "model": ("model", "name"),
    "backbone": ("model", "backbone"),
    "variant": ("model", "variant"),
}


def default_config() -> ml_collections.ConfigDict:
    """The defaults, unlocked: a config file changes what it differs in."""
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "ema_net"
    config.model.backbone = "hrnet_w18"
    config.model.variant = "paper"  # "released": as the published code, see the deviations table
    config.model.overrides = ml_collections.ConfigDict()  # fields of the network by name

    config.tasks = ("semseg", "depth", "normals")
    config.task_weights = ml_collections.ConfigDict({"semseg": 1.0, "depth": 1.0, "normals": 1.0})

    config.data = ml_collections.ConfigDict()
    config.data.dataset = "nyuv2"
    config.data.form = "mtan"  # how the files in manual_dir are laid out
    config.data.manual_dir = ""  # the files that you have
    config.data.negate_normals = ""  # axes of stored normals to turn round, such as "yz"
    config.data.data_dir = "data"  # where the records that are built from them go
    config.data.image_size = (288, 384)
    config.data.train_examples = 0  # counts and seed of procedural data sets
    config.data.val_examples = 0
    config.data.seed = 0
    config.data.threads = 4
    config.data.prefetch = 4  # batches that are read ahead
    config.data.cache = False  # keep decoded examples in memory

    config.augment = ml_collections.ConfigDict()
    config.augment.flip = True
    config.augment.scale_crop = False
    config.image_statistics = "imagenet"  # or "unit": images in [0, 1] as they are

    config.epochs = 200.0
    config.batch_size = 8
    config.eval_batch_size = 8
    config.log_every_steps = 10
    config.eval_every_epochs = 5.0
    config.panel_images = 4

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.l2 = 1e-4
    config.optimizer.clip_norm = ml_collections.config_dict.placeholder(float)  # None: no clipping
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 0

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 500  # beside one at every evaluation
    config.checkpoint.keep_latest = 2
    config.checkpoint.keep_best = 1
    config.checkpoint.best_metric = ""  # "TASK/METRIC" or "delta_m"; "": the first task's primary
    config.checkpoint.reference = ""  # results.json of a single-task run, for delta_m

    config.mesh = ml_collections.ConfigDict()
    config.mesh.rows = 1  # devices that share the rows of an image

    config.profile = False  # a trace of a few steps for TensorBoard
    return config


def with_argument(config: ml_collections.ConfigDict, arg: str | None) -> ml_collections.ConfigDict:
    """Applies a config file's argument, "model=hps,backbone=hrnet_w18", and locks the config.

    Raises:
        UserError: the argument is not of this form or a key is unknown.
    """
    for part in arg.split(",") if arg else []:
        key, separator, value = part.partition("=")
        if not separator or key not in ARGUMENTS:
            raise UserError(
                f"config argument '{part}' is not understood; it must be KEY=VALUE with KEY one "
                f"of {', '.join(ARGUMENTS)}, as in configs/nyuv2.py:model=hps."
            )
        group, field = ARGUMENTS[key]
        config[group][field] = value
    return config.lock()
