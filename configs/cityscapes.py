r"""Cityscapes, 19 classes and disparity, 128x256: the recipe of EMA-Net's paper (arXiv 2401.11124).

    python -m emanet_jax.main --config=cityscapes --workdir=runs/cityscapes \
        --config.data.manual_dir=/data/cityscapes

`manual_dir` holds {train,val}/{image,label_7,label_19,depth}/{i}.npy (2975 + 500 images), the copy
that MTAN's authors share (github.com/lorenmt/mtan). The files of
www.cityscapes-dataset.com (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip,
disparity_trainvaltest.zip; a login; 11 + 0.3 + 3.5 GB) are read with --config.data.layout=official,
at any --config.data.image_size up to 1024x2048. --config.data.classes=7 takes the 7 categories.

Other networks: --config=cityscapes:model=mti_net, and with another backbone
cityscapes:model=hps,backbone=resnet50. All get 75 epochs of batches of 8, Adam 5e-4,
weights 1 and 10, cosine; the multi-scale ones with a warm restart after a third of the steps. No
recipe is known here for those on SegNet (model=mtan, ati_net), which get the same. ImageNet weights
are fetched once; --config.model.pretrained= starts from random ones. Not run.
"""

import ml_collections

from emanet_jax.config import IMAGENET, from_argument

MULTI_SCALE = ("mti_net", "ema_net_ms")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` is "model=NAME,backbone=NAME,variant=NAME", each part optional."""
    config = from_argument(arg)
    config.model.pretrained = IMAGENET.get(config.model.backbone, "")
    config.data.dataset = "cityscapes"
    config.data.image_size = (128, 256)
    config.tasks = ("semseg", "depth")
    config.task_weights = ml_collections.ConfigDict({"semseg": 1.0, "depth": 10.0})
    config.epochs = 75.0
    config.optimizer.learning_rate = 5e-4
    if config.model.name in MULTI_SCALE:
        config.optimizer.schedule = "cosine_restarts"
    return config.lock()
