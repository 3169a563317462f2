"""Write timm's names of Swin V2 and the features of a tiny one; `timm` must be installed for it.

python -m tests.golden.swin_v2_timm.make
"""

import json

import numpy as np
import timm
import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2

from tests.golden_rules import GOLDEN, weights

HERE = GOLDEN / "swin_v2_timm"
SIZE = 256  # below it, timm's last stage has smaller windows


def names(network: torch.nn.Module) -> str:
    """The state dict's names and shapes."""
    shapes = [(name, list(x.shape)) for name, x in network.state_dict().items()]
    return json.dumps(shapes, separators=(",", ":"))


def main() -> None:
    """Write all files."""
    for size in ("tiny", "small", "base"):
        name = f"swinv2_{size}_window8_256"
        path = GOLDEN / "pretrained_keys" / f"timm_{name}.json"
        path.write_text(names(timm.create_model(name)))

    network = SwinTransformerV2(  # as the backbone swin_v2_tiny
        img_size=SIZE, window_size=8, embed_dim=4, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2)
    ).double()
    (HERE / "keys.json").write_text(names(network))
    state_dict = {
        name: torch.from_numpy(weights(name, tuple(x.shape)))
        for name, x in network.state_dict().items()
    }
    network.load_state_dict(state_dict)
    images = np.random.RandomState(0).random_sample((1, 3, SIZE, SIZE)).astype(np.float32)
    with torch.no_grad():
        features = network.eval().forward_features(torch.from_numpy(images).double())
    np.save(HERE / "features.npy", features.numpy())  # (1, 8, 8, 32)


if __name__ == "__main__":
    main()
