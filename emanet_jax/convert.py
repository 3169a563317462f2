"""Weights of the reference PyTorch networks to ours and back, by a table of names, strictly.

A parameter of ours has a path, say `backbone/stage2_0/branch_0_1/unit1/conv/kernel`; the rules
rewrite it step by step into the reference's name, `backbone.stage2.0.branches.0.1.conv1.weight`.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from emanet_jax.errors import UserError

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


def import_torch(
    state_dict: Mapping[str, np.ndarray], model_name: str, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Variables like `variables` with the values of a PyTorch state dict.

    Args:
      state_dict: name to array in PyTorch's layouts (OIHW). `num_batches_tracked` is not needed.
      model_name: one of the menu's names.
      variables: {"params", "batch_stats"} of the network, arrays or their abstract shapes; the
        result has their structure, shapes and dtypes.

    Raises:
      UserError: names that are missing from or surplus in the state dict (all of them are listed),
        or arrays of another shape.
    """
    targets = _by_torch_name(variables, model_name)
    counters = {f"{_module(name)}.num_batches_tracked" for name in targets if _is_variance(name)}
    missing = sorted(targets.keys() - state_dict.keys())
    surplus = sorted(state_dict.keys() - targets.keys() - counters)
    if missing or surplus:
        raise UserError(
            f"the state dict does not fit {model_name}{_variant_hint(missing, surplus)}: "
            f"missing {missing}, surplus {surplus}."
        )
    values, misshapen = {}, []
    for name, (path, target) in targets.items():
        value = _from_torch(np.asarray(state_dict[name]))
        if value.shape != target.shape:
            misshapen.append(f"{name} gives {value.shape} for {'/'.join(path)} {target.shape}")
        as_array = np.asarray if isinstance(target, np.ndarray) else jnp.asarray
        values[path] = as_array(value, target.dtype)
    if misshapen:
        raise UserError(
            f"the state dict is of another {model_name} (shapes in our layouts): "
            f"{'; '.join(misshapen)}; fusions of another image size can be imported into a network "
            "of theirs and then resized by models.ctal.adapt_resolution."
        )
    return unflatten_dict(values)


def export_torch(variables: Mapping[str, Any], model_name: str) -> dict[str, np.ndarray]:
    """The inverse of `import_torch`: a state dict that the reference loads strictly."""
    state_dict = {}
    for name, (_, value) in _by_torch_name(variables, model_name).items():
        state_dict[name] = _to_torch(np.asarray(value))
        if _is_variance(name):
            state_dict[f"{_module(name)}.num_batches_tracked"] = np.zeros((), np.int64)
    return state_dict


def _by_torch_name(variables: Mapping[str, Any], model_name: str) -> dict[str, tuple[tuple, Any]]:
    """{the reference's name: (our path, our array)}."""
    if model_name not in MODEL_RULES:
        raise UserError(f"unknown model {model_name!r}; choose from {', '.join(MODEL_RULES)}.")
    return {
        torch_name("/".join(path[1:]), model_name): (path, value)
        for path, value in flatten_dict(unfreeze(variables)).items()
    }


def _is_variance(name: str) -> bool:
    return name.endswith(".running_var")


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _variant_hint(missing: list[str], surplus: list[str]) -> str:
    """Names the variant of the file if all that is wrong is how many fusions there are."""
    if not (missing and surplus and all(".fusion." in name for name in missing + surplus)):
        return ""
    one_for_all = any(name.endswith(".fusion.weight") for name in surplus)
    variant = "released" if one_for_all else "paper"
    return f' (its fusions are those of variant="{variant}": build the network with that)'


def _from_torch(value: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, (out, in) to (in, out).

    So is a transposed convolution's IOHW to the HWOI that `blocks.DoublingConv` keeps.
    """
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _to_torch(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
