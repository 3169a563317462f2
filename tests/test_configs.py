"""Every config file with every network of the menu: it builds, and carries its recipe."""

import functools
import importlib

import jax
import jax.numpy as jnp
import pytest

from emanet_jax import balancing, models
from emanet_jax.config import check_config
from emanet_jax.data import augmentation, pipeline
from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for
from emanet_jax.training import optim
from tests.conftest import ROOT
from tests.menu import slow_but

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))


def load(config, arg):
    return importlib.import_module(f"configs.{config}").get_config(arg)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=slow_but(("hps", "ema_net", "mtan"), x)) for x in models.NETWORKS],
)
@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_builds_every_network(config, name):
    settings = load(config, f"model={name}")
    assert settings.is_locked and settings.model.name == name
    tasks = tasks_for(settings.data.dataset, settings.tasks, settings.data.classes)
    h, w = settings.data.image_size
    model = models.build(
        name,
        tasks,
        backbone=settings.model.backbone,
        image_size=(h, w),
        variant=settings.model.variant,
        **settings.model.overrides,
    )
    images = jax.ShapeDtypeStruct((1, h, w, 3), jnp.float32)
    init = functools.partial(model.init_with_output, train=False)
    predictions, _ = jax.eval_shape(init, jax.random.key(0), images)
    assert {task: x.shape for task, x in predictions.final.items()} == {
        task.name: (1, h, w, task.channels) for task in tasks
    }


@pytest.mark.parametrize("name", models.NETWORKS)
@pytest.mark.parametrize("config", CONFIGS)
def test_every_value_of_a_config_is_one_that_the_code_knows(config, name):
    settings = load(config, f"model={name}")
    assert pipeline.checked_spec(settings.data).name == settings.data.dataset
    check_config(settings)
    tasks = tasks_for(settings.data.dataset, settings.tasks, settings.data.classes)
    augmentation.from_config(settings.augment)
    optim.make_schedule(settings.optimizer.schedule, settings.optimizer.learning_rate, 100)
    balancing.from_config(settings, tasks, 10)


def test_argument_names_the_network():
    settings = load("nyuv2", "model=hps,backbone=resnet50,variant=released")
    assert (settings.model.name, settings.model.backbone) == ("hps", "resnet50")
    assert settings.model.variant == "released"
    assert settings.model.pretrained == "timm/resnet50.tv_in1k"


def test_networks_bring_their_usual_backbone_and_recipe():
    settings = load("nyuv2", "model=ati_net")
    assert settings.model.backbone == "segnet" and settings.model.pretrained == ""
    assert (settings.batch_size, settings.balancing) == (2, "dwa")
    assert settings.optimizer.schedule == "halved"
    assert load("nyuv2", "model=pad_net").batch_size == 8
    assert load("nyuv2", "model=pad_net,backbone=segnet").batch_size == 2


@pytest.mark.parametrize("arg", ["model", "network=hps", "model=hps;backbone=resnet34", "=hps"])
def test_wrong_arguments_are_said(arg):
    with pytest.raises(UserError, match=r"model, backbone, variant|model is"):
        config = load("nyuv2", arg)
        models.build(config.model.name, tasks_for("nyuv2"), image_size=(64, 96))
