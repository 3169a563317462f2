"""config.data of tiny data sets."""

from ml_collections import ConfigDict

SIZE = (32, 64)


def data_config(data_dir, **changes) -> ConfigDict:
    """Ten small synthetic rooms to train on and three to evaluate with, unless changed."""
    config = {
        "dataset": "synthrooms",
        "form": "mtan",
        "manual_dir": "",
        "negate_normals": "",
        "data_dir": str(data_dir),
        "image_size": SIZE,
        "train_examples": 10,
        "val_examples": 3,
        "seed": 0,
        "threads": 2,
        "prefetch": 2,
        "cache": False,
    }
    return ConfigDict({**config, **changes})


def augment_config(flip: bool = True, scale_crop: bool = True) -> ConfigDict:
    return ConfigDict({"flip": flip, "scale_crop": scale_crop})
