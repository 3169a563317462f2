r"""PASCAL-Context, five tasks, 512x512: the recipe of EMA-Net's paper (arXiv 2401.11124).

    python -m emanet_jax.main --config=pascal_context --workdir=runs/pascal_context \
        --config.data.manual_dir=/data/PASCALContext --config.model.pretrained=swin_v2_s.pth

`manual_dir` is the folder PASCALContext of the tarball that InvPT's authors share
(github.com/prismformore/Multi-Task-Transformer), or PASCAL_MT of its first authors
(github.com/facebookresearch/astmt): 4998 + 5105 images up to 500x500. The records that are built
from it take about 8 GB, and as much as 30 GB while they are built (estimated). swin_v2_s.pth is
torchvision's ImageNet model, https://download.pytorch.org/models/swin_v2_s-637d8ceb.pth; without it
the network starts from random weights.

Other networks: --config=pascal_context:model=pad_net, and with another backbone
pascal_context:model=hps,backbone=swin_v2_t. All get 70 epochs of batches of 8, Adam
2e-5, cosine; EMA-Net doubles the weight of segmentation, PAP-Net clips gradients at 2 and not 10.
The multi-scale networks are built on HRNet-W18, those of SegNet on SegNet, with the same recipe.
Not run.
"""

import ml_collections

from emanet_jax.config import IMAGENET, from_argument

CTAL = ("ema_net", "ema_net_ms")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` is "model=NAME,backbone=NAME,variant=NAME", each part optional."""
    config = from_argument(arg, backbone="swin_v2_s")
    config.model.pretrained = IMAGENET.get(config.model.backbone, "")
    config.data.dataset = "pascal_context"
    config.data.layout = "pascal_mt"
    config.data.image_size = (512, 512)
    config.tasks = ("semseg", "normals", "saliency", "edge", "human_parts")
    config.task_weights = ml_collections.ConfigDict(
        {
            "semseg": 2.0 if config.model.name in CTAL else 1.0,
            "normals": 10.0,
            "saliency": 5.0,
            "edge": 50.0,
            "human_parts": 2.0,
        }
    )
    config.augment.scale = (0.5, 2.0)
    config.augment.max_class_share = 0.75
    config.augment.brightness = 0.125  # 32 of 255, and a hue of 36 degrees
    config.augment.contrast = 0.5
    config.augment.saturation = 0.5
    config.augment.hue = 0.1
    config.epochs = 70.0
    config.optimizer.learning_rate = 2e-5
    config.optimizer.l2 = 1e-5
    config.optimizer.clip_norm = 2.0 if config.model.name == "pap_net" else 10.0
    return config.lock()
