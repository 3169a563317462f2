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

# Of the networks that cannot be built on every backbone.
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


def default_config() -> ml_collections.ConfigDict:
    """The defaults, unlocked: a config file changes what it differs in."""
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "ema_net"
    config.model.backbone = "hrnet_w18"
    config.model.variant = "paper"  # "released": as the published code, see the deviations table
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
    config.data.form = "mtan"  # how the files in manual_dir are laid out
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
    config.panel_images = 4
    config.panel_every_steps = 0  # pictures between evaluations too; 0: only at evaluations
    # Metrics that need the host, such as boundary F (3 images of 512x512 a second): "always",
    # "last" (at the end of training and with --mode=eval) or "never".
    config.host_metrics = "last"

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


def from_argument(arg: str | None, backbone: str = "hrnet_w18") -> ml_collections.ConfigDict:
    """The defaults with a config file's argument, such as "model=hps,backbone=resnet50", unlocked.

    Args:
        arg: what stands behind the config file's name.
        backbone: of networks that have no usual one, if `arg` names none.

    Raises:
        UserError: the argument is not of this form or a key is unknown.
    """
    chosen = {}
    for part in arg.split(",") if arg else []:
        key, separator, value = part.partition("=")
        if not separator or key not in ARGUMENTS:
            raise UserError(
                f"config argument '{part}' is not understood; it must be KEY=VALUE with KEY one "
                f"of {', '.join(ARGUMENTS)}, as in configs/nyuv2.py:model=hps."
            )
        chosen[key] = value
    config = default_config()
    chosen.setdefault("backbone", USUAL_BACKBONES.get(chosen.get("model"), backbone))
    for key, value in chosen.items():
        group, field = ARGUMENTS[key]
        config[group][field] = value
    return config


def with_argument(config: ml_collections.ConfigDict, arg: str | None) -> ml_collections.ConfigDict:
    """Writes the network that `arg` names into a config, and locks it; see `from_argument`."""
    if arg:
        config.model.update(from_argument(arg).model)
    return config.lock()
