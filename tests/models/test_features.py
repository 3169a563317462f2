"""Backbones as features: their maps, channels, strides and weights."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import emanet_jax
from emanet_jax.errors import UserError
from emanet_jax.models import BACKBONES
from emanet_jax.models.weights.pretrained import PUBLISHED

TINY = {
    "hrnet_tiny": ((4, 6, 8, 10), (4, 8, 16, 32)),
    "resnet_tiny": ((8, 12, 16, 24), (4, 8, 16, 32)),
    "swin_v2_tiny": ((4, 8, 16, 32), (4, 8, 16, 32)),
    "segnet_tiny": ((4, 6, 8, 10, 12), (1, 2, 4, 8, 16)),
}
assert set(TINY) == {name for name in BACKBONES if name.endswith("_tiny")}


@pytest.mark.parametrize("name", TINY)
def test_maps_have_the_channels_and_strides_that_are_said(name):
    features = emanet_jax.backbone(name)
    assert (features.channels, features.strides) == TINY[name]
    images = np.random.default_rng(0).random((2, 64, 96, 3), np.float32)
    maps = features(images)
    assert [x.shape for x in maps] == [
        (2, 64 // stride, 96 // stride, c) for c, stride in zip(*TINY[name], strict=True)
    ]
    assert all(np.isfinite(x).all() and np.ptp(x) > 0 for x in maps)
    if name == "resnet_tiny":
        (last,) = BACKBONES[name].make().apply(features.variables, images, train=False)
        np.testing.assert_allclose(last, maps[-1], rtol=1e-4, atol=1e-5)


def test_published_weights_are_filled_in(tmp_path):
    """Names as timm's, from the shapes of the network; every one of them arrives."""
    features = emanet_jax.backbone("resnet_tiny", seed=1)
    inside = {kind: {"backbone": tree} for kind, tree in features.variables.items()}
    weights = {
        name.removeprefix("backbone."): x
        for name, x in emanet_jax.export_torch(inside, "hps").items()
    }
    assert PUBLISHED["resnet"].renames == ()
    save_file(weights, tmp_path / "resnet.safetensors")
    loaded = emanet_jax.backbone("resnet_tiny", pretrained=str(tmp_path / "resnet.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, features.variables)
    assert "resnet.safetensors" in loaded.summary and "random" in features.summary
    other = emanet_jax.backbone("resnet_tiny", seed=2)
    assert not np.array_equal(
        *(jax.tree.leaves(x.variables["params"])[-1] for x in (other, loaded))
    )


def test_unknown_names_and_weights_are_one_sentence():
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        emanet_jax.backbone("resnet-50")
    with pytest.raises(UserError, match="segnet_tiny has no usual ImageNet weights"):
        emanet_jax.backbone("segnet_tiny", pretrained=True)
    with pytest.raises(UserError, match="no such file"):
        emanet_jax.backbone("resnet_tiny", pretrained="gone.safetensors")
