"""Costs of networks against the papers' counts, and the table that shows them."""

import pytest

from emanet_jax import models
from emanet_jax.models.cost import cost
from emanet_jax.tasks import tasks_for
from tests import forks
from tests.menu import slow_but

NYUV2 = (288, 384)

# Billions of multiply-adds of the reference at 288x384. Of those with CTAL, 38.2 are in the
# products and the grouped convolution between pixels, in whose place the factorized ones take 18.3.
REFERENCE = {
    "stl": 12.3,
    "hps": 5.1,
    "pad_net": 60.4,
    "pap_net": 46.6,
    "ema_net": 66.8 - 38.2 + 18.3,
    "mti_net": 8.0,
    "ema_net_ms": 65.4 - 38.2 + 18.3,
}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=slow_but(("hps", "ema_net"), x)) for x in REFERENCE]
)
def test_multiply_adds_are_the_references(name):
    model = models.build(name, tasks_for("nyuv2"), image_size=NYUV2)
    found = cost(model, NYUV2).multiply_adds / 1e9
    # XLA also counts what is added and compared between arrays, and leaves out the padding.
    assert found == pytest.approx(REFERENCE[name], rel=0.05)


def test_ctal_is_named_where_there_is_one():
    found = {
        name: cost(
            models.build(name, tasks_for("nyuv2"), image_size=size, backbone="hrnet_tiny"), size
        ).affinity
        for name, size in (("hps", (64, 96)), ("ema_net", (64, 96)))
    }
    assert found == {"hps": "", "ema_net": "shifted"}


def table(*args):
    done = forks.python("-m", "emanet_jax.models", *args)
    return done.returncode, done.stdout, done.stderr


def test_table():
    args = ("--model=hps,ema_net", "--backbone=hrnet_tiny", "--image_size=64x96")
    status, out, err = table(*args, "--dataset=cityscapes")
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("cityscapes: semseg (19), depth (1); 64 x 96")
    assert [line.split()[:2] for line in lines[2:4]] == [
        ["hps", "hrnet_tiny"],
        ["ema_net", "hrnet_tiny"],
    ]
    assert lines[3].endswith("shifted")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model=hsp", "--model=hsp is unknown; choose from"),
        ("--backbone=vgg", "--backbone=vgg is unknown; choose from"),
        ("--image_size=288", "--image_size=288 is no size; write it as 288x384"),
        ("--dataset=ade20k", "--dataset=ade20k is unknown; choose from"),
        ("--variant=draft", "variant"),
    ],
)
def test_wrong_flags_are_one_line(argument, message):
    status, _, err = table(argument)
    assert status == 1
    assert message in err and "Traceback" not in err
