"""Prints the menu: every network on every backbone that it can be built on, and what that costs.

    python -m emanet_jax.models
    python -m emanet_jax.models --dataset=cityscapes --image_size=128x256 --model=ema_net,hps

Multiply-adds are of one image forwards, half the operations that XLA counts, which are a few per
cent more than those of convolutions and products alone. Parameters are those of training mode.
"""

import logging
import time

from absl import flags

from emanet_jax import cli, menu
from emanet_jax.errors import UserError

_MODELS = flags.DEFINE_list("model", [], "Networks to list, such as ema_net,hps; all by default.")
_BACKBONES = flags.DEFINE_list("backbone", [], "Backbones to list; all but the tests' by default.")
_VARIANT = flags.DEFINE_enum("variant", "paper", ["paper", "released"], "Variant of the networks.")
_DATASET = flags.DEFINE_string("dataset", "nyuv2", "Data set whose tasks are predicted.")
_IMAGE_SIZE = flags.DEFINE_string("image_size", "288x384", "Height x width of the images.")


def _command() -> None:
    image_size = cli.image_size("image_size", _IMAGE_SIZE.value)
    cli.check_names("dataset", [_DATASET.value], menu.DATASETS)
    cli.check_names("model", _MODELS.value, menu.NETWORKS)
    cli.check_names("backbone", _BACKBONES.value, menu.BACKBONES)
    # Imported here, so that flags are checked and --help answers before the libraries load.
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing runs; leave accelerators alone
    from emanet_jax import models
    from emanet_jax.models.cost import cost
    from emanet_jax.tasks import tasks_for

    logging.getLogger("emanet_jax.models").setLevel(logging.WARNING)  # the table says it
    tasks = tasks_for(_DATASET.value)
    names, backbones = _MODELS.value, _BACKBONES.value
    pairs = [
        (name, backbone)
        for name in names or models.NETWORKS
        for backbone in models.backbones_of(name)
        if backbone in backbones
        or not (backbones or backbone.endswith("_tiny"))  # those are for tests
    ]
    if not pairs:
        raise UserError(
            f"none of {', '.join(names)} can be built on {', '.join(backbones)}; "
            "leave --backbone out to see what can."
        )
    shown = ", ".join(f"{task.name} ({task.channels})" for task in tasks)
    print(f"{_DATASET.value}: {shown}; {image_size[0]} x {image_size[1]}; {_VARIANT.value} variant")
    row = "{:12} {:12} {:>15} {:>16}  {}"
    print(row.format("network", "backbone", "parameters", "multiply-adds", "CTAL"))
    start = time.monotonic()
    for name, backbone in pairs:
        model = models.build(
            name, tasks, backbone=backbone, image_size=image_size, variant=_VARIANT.value
        )
        found = cost(model, image_size)
        count = f"{found.multiply_adds / 1e9:.1f} G"
        print(
            row.format(name, backbone, f"{found.parameters:,}", count, found.affinity), flush=True
        )
    print(f"{len(pairs)} networks in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    cli.run(_command)
