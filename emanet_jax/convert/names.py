"""The reference's names of our parameters, as tables of rules.

A parameter of ours has a path, say `backbone/stage2_0/branch_0_1/unit1/conv/kernel`; the rules
rewrite it step by step into the reference's name, `backbone.stage2.0.branches.0.1.conv1.weight`.
"""

import re
from collections.abc import Mapping

Rules = tuple[tuple[str, str], ...]  # (regular expression, replacement), applied in turn

HRNET: Rules = (
    (r"stem(\d)/(conv|bn)", r"\2\1"),
    (r"layer1_", "layer1/"),
    (r"widen(\d)_(\d)", r"transition\1/\2"),
    (r"halve(\d)_(\d)", r"transition\1/\2/0"),
    (r"stage(\d)_(\d)", r"stage\1/\2"),
    (r"branch_(\d)_(\d)", r"branches/\1/\2"),
    (r"up_(\d)_(\d)", r"fuse_layers/\1/\2"),
    (r"down_(\d)_(\d)_(\d)", r"fuse_layers/\1/\2/\3"),
)

BLOCKS: Rules = (
    (r"unit(\d)/(conv|bn)", r"\2\1"),
    (r"shortcut", "downsample"),
    (r"/conv/", "/0/"),
    (r"/bn/", "/1/"),
)

LEAVES: Rules = (
    (r"\b(kernel|scale)$", "weight"),
    (r"\b(mean|var)$", r"running_\1"),
    (r"\bsaliency\b", "sal"),
    (r"/", "."),
)

# What files hold beside parameters and statistics, and no network of ours needs.
SURPLUS_BY_DESIGN = r"backbone\.fc\.(weight|bias)"  # ResNet's classifier, unused

_AFFINITY = "affinity_learning_module"
MODEL_RULES: Mapping[str, Rules] = {
    "hps": (
        (r"^head_(\w+)/fuse", r"heads/\1/last_layer"),
        (r"^head_(\w+)/predict", r"heads/\1/last_layer/3"),
    ),
    "ema_net": (
        (r"^backbone", "backbone/0"),
        (r"^fuse", "backbone/1/last_layer"),
        (r"^initial_(\w+)/block_", r"initial_task_prediction_heads/layers/\1/"),
        (r"^initial_(\w+)/predict", r"initial_task_prediction_heads/conv_out/\1"),
        (r"^distillation/in_(\w+)", rf"{_AFFINITY}/conv_in/\1"),
        (r"^distillation/affinity/value_(\w+)", rf"{_AFFINITY}/spatial_att/projection/\1"),
        (r"^distillation/affinity/fusion_(\w+)", rf"{_AFFINITY}/spatial_att/fusion/\1"),
        (r"^distillation/affinity/fusion", rf"{_AFFINITY}/spatial_att/fusion"),
        (r"^distillation/double_(\w+)", rf"{_AFFINITY}/conv_out/\1/0"),
        (r"^distillation/bn_(\w+)", rf"{_AFFINITY}/conv_out/\1/1"),
        (r"^distillation/out_(\w+)", rf"{_AFFINITY}/conv_out/\1/3"),
        (r"^head_(\w+)/block_", r"heads/\1/"),
        (r"^head_(\w+)/predict", r"heads/\1/2"),
    ),
}


def torch_name(path: str, model_name: str) -> str:
    """The reference's name of our parameter or statistic, `path` without its collection."""
    for pattern, replacement in (*MODEL_RULES[model_name], *HRNET, *BLOCKS, *LEAVES):
        path = re.sub(pattern, replacement, path)
    return path
