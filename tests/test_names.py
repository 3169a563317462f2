"""The names that are known without JAX are those of the registries, and users add theirs."""

import pytest

from emanet_jax import balancing, menu, models
from emanet_jax.config import CHOICES
from emanet_jax.errors import UserError
from emanet_jax.models.registry import VARIANTS
from emanet_jax.models.remat import CHOICES as REMAT
from emanet_jax.network import PRECISIONS
from emanet_jax.tasks import DATASETS
from emanet_jax.training.optim import SCHEDULES

REGISTRIES = {
    "networks": (menu.NETWORKS, models.NETWORKS),
    "backbones": (menu.BACKBONES, models.BACKBONES),
    "methods": (menu.METHODS, balancing.METHODS),
    "data sets": (menu.DATASETS, DATASETS),
}


@pytest.mark.parametrize(("names", "registry"), REGISTRIES.values(), ids=REGISTRIES)
def test_the_menu_has_the_names_of_the_registry(names, registry):
    assert tuple(name for name in registry if name in names.own) == names.own
    assert set(registry) <= set(names)  # those that other tests have registered among them


def test_the_menu_has_tasks_and_layouts_of_every_data_set():
    for name in menu.DATASETS.own:
        assert menu.TASKS[name] == tuple(task.name for task in DATASETS[name].tasks)
        assert tuple(menu.LAYOUTS.get(name, ())) == DATASETS[name].layouts


def test_the_other_choices_of_a_config_are_those_of_the_code():
    assert CHOICES["model.variant"] == VARIANTS
    assert CHOICES["task_gradients"] == balancing.grads.PASSES
    assert CHOICES["precision"] == tuple(PRECISIONS)
    assert CHOICES["remat"] == tuple(REMAT)
    assert CHOICES["optimizer.schedule"] == tuple(SCHEDULES)


def test_users_names_come_after_the_packages():
    names, registry = menu.Names("toy", "ball", "duck"), {"ball": 1, "duck": 2}
    for entry in (3, 4):  # the second takes the first one's place
        names.register("kite", entry, registry)
    assert list(names) == list(registry) == ["ball", "duck", "kite"] and len(names) == 3
    assert "kite" in names and "yoyo" not in names and registry["kite"] == 4
    with pytest.raises(UserError, match="toy 'duck' is one of this package's own; choose another"):
        names.register("duck", 5, registry)
    assert registry["duck"] == 2
