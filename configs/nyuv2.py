"""NYUv2, 13 classes, 288x384: the recipe of EMA-Net's paper (arXiv 2401.11124).

    python -m emanet_jax.main --config=configs/nyuv2.py --workdir=runs/nyuv2 \
        --config.data.manual_dir=/data/nyuv2

`manual_dir` holds {train,val}/{image,label,depth,normal}/{i}.npy (795 + 654 images).
Other networks: --config=configs/nyuv2.py:model=hps. The paper starts from ImageNet weights; this
config starts from random ones and has not been run to its end yet.
"""

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` is "model=NAME,backbone=NAME,variant=NAME", each part optional."""
    return common.with_argument(common.default_config(), arg)
