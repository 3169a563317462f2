"""NYUv2, 13 classes, 288x384: the recipes of EMA-Net's and ATI-Net's papers.

    python -m emanet_jax.main --config=nyuv2 --workdir=runs/nyuv2 \
        --config.data.manual_dir=/data/nyuv2

`manual_dir` holds {train,val}/{image,label,depth,normal}/{i}.npy (795 + 654 images); the data set's
own nyu_depth_v2_labeled.mat is read with --config.data.layout=labeled.
Other networks: --config=nyuv2:model=mti_net, and with another backbone
nyuv2:model=hps,backbone=resnet50; `python -m emanet_jax.models` lists them.

The networks of arXiv 2401.11124 (HRNet, 200 epochs of batches of 8, Adam 1e-4, cosine) start from
ImageNet weights, which are fetched once; --config.model.pretrained= starts from random ones. Those
on SegNet (arXiv 2201.10649: batches of 2, learning rate halved at epoch 100, DWA) start from random
ones. None of them has been run to its end with this code yet.
"""

import ml_collections

from emanet_jax.config import IMAGENET, from_argument


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` is "model=NAME,backbone=NAME,variant=NAME", each part optional."""
    config = from_argument(arg)
    config.model.pretrained = IMAGENET.get(config.model.backbone, "")
    if config.model.backbone == "segnet":
        config.batch_size = 2
        config.optimizer.schedule = "halved"
        config.balancing = "dwa"
    return config.lock()
