"""config.data of tiny data sets."""

from ml_collections import ConfigDict

from emanet_jax.data import augmentation

SIZE = (32, 64)


def data_config(data_dir, **changes) -> ConfigDict:
    """Ten small synthetic rooms to train on and three to evaluate with, unless changed."""
    config = {
        "dataset": "synthrooms",
        "layout": "mtan",
        "manual_dir": "",
        "negate_normals": "",
        "classes": 0,
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


def make_augmentation(**changes) -> augmentation.Augmentation:
    """Nothing, unless changed."""
    off = {
        "flip": False,
        "scale_crop": False,
        "scale": (1.0, 1.0),
        "max_class_share": 1.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
        "hue": 0.0,
    }
    return augmentation.from_config(ConfigDict({**off, **changes}))
