"""Weights of the reference PyTorch networks to ours and back, by a table of names, strictly."""

import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from emanet_jax.errors import UserError, listed
from emanet_jax.models.backbones import swin
from emanet_jax.models.weights.torch_names import MODEL_RULES, SURPLUS_BY_DESIGN, torch_name

_LOG = logging.getLogger(__name__)

FUSION = r"\.(task_)?fusion\."  # in the names of CTAL's grouped convolutions


def import_torch(
    state_dict: Mapping[str, np.ndarray], model_name: str, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Variables like `variables` with the values of a PyTorch state dict.

    Args:
      state_dict: name to array in PyTorch's layouts (OIHW). `num_batches_tracked` is not needed,
        and all names may have one more prefix, see `without_prefix`.
      model_name: one of the menu's names.
      variables: {"params", "batch_stats"} of the network, arrays or their abstract shapes; the
        result has their structure, shapes and dtypes.

    Raises:
      UserError: names that are missing from or surplus in the state dict (their number and the
        first of them are in the message), or arrays of another shape.
    """
    targets = by_torch_name(variables, model_name)
    return fit(without_prefix(state_dict, targets.__contains__), targets, model_name)


def export_torch(variables: Mapping[str, Any], model_name: str) -> dict[str, np.ndarray]:
    """The inverse of `import_torch`: a state dict that the reference loads strictly."""
    state_dict = {}
    for name, (path, value) in by_torch_name(variables, model_name).items():
        # Row-major: safetensors' writer takes no notice of strides.
        state_dict[name] = np.asarray(_to_torch_layout(np.asarray(value), path), order="C")
        module = name.rpartition(".")[0]
        if name.endswith(".running_var"):
            state_dict[f"{module}.num_batches_tracked"] = np.zeros((), np.int64)
        if name.endswith(".attn.logit_scale"):  # the reference's window attention keeps two buffers
            state_dict[f"{module}.relative_coords_table"] = swin.coordinate_table()[None]
            state_dict[f"{module}.relative_position_index"] = swin.position_index().ravel()
    return state_dict


def by_torch_name(variables: Mapping[str, Any], model_name: str) -> dict[str, tuple[tuple, Any]]:
    """{the reference's name: (our path, our array)}."""
    if model_name not in MODEL_RULES:
        raise UserError(f"unknown model {model_name!r}; choose from {', '.join(MODEL_RULES)}.")
    return {
        torch_name("/".join(path[1:]), model_name): (path, value)
        for path, value in flatten_dict(variables).items()
    }


def without_prefix(
    state_dict: Mapping[str, np.ndarray], is_known: Callable[[str], bool]
) -> Mapping[str, np.ndarray]:
    """Take off a prefix that all names share, such as `net.`, and log it, where none is known.

    Args:
      state_dict: name to array.
      is_known: whether the network has a name. The shortest prefix is taken off without which it
        has one; where there is none, nothing is.
    """
    parts = next(iter(state_dict), "").split(".")[:4]
    for prefix in itertools.accumulate((f"{part}." for part in parts), initial=""):
        shared = all(name.startswith(prefix) for name in state_dict)
        if shared and any(is_known(name.removeprefix(prefix)) for name in state_dict):
            if prefix:
                _LOG.info("Took '%s' off %d names of the state dict.", prefix, len(state_dict))
            return {name.removeprefix(prefix): x for name, x in state_dict.items()}
    return state_dict


def fit(
    state_dict: Mapping[str, np.ndarray], targets: Mapping[str, tuple[tuple, Any]], network: str
) -> dict[str, Any]:
    """Fill the targets with a PyTorch state dict, strictly, as `import_torch` describes.

    Floating-point numbers of any width are converted to the target's: float16, bfloat16 and float32
    exactly into float32, float64 by rounding.

    Args:
      state_dict: name to array.
      targets: the paths and arrays that the names stand for, from `by_torch_name`.
      network: its name in error messages.
    """
    counters = {
        name.replace(".running_var", ".num_batches_tracked")
        for name in targets
        if name.endswith(".running_var")
    }
    missing = sorted(targets.keys() - state_dict.keys())
    surplus = sorted(
        name
        for name in state_dict.keys() - targets.keys() - counters
        if not re.fullmatch(SURPLUS_BY_DESIGN, name)
    )
    if missing or surplus:
        raise UserError(
            f"the state dict does not fit {network}{_variant_hint(missing, surplus)}: of "
            f"{len(targets)} names, {len(missing)} are missing ({listed(missing)}); of its "
            f"{len(state_dict)}, {len(surplus)} are surplus ({listed(surplus)})."
        )
    _check_windows(state_dict, network)
    values, misshapen = {}, []
    for name, (path, target) in targets.items():
        value = _from_torch_layout(np.asarray(state_dict[name]), path)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise UserError(
                f"the state dict's {name} is of type {value.dtype}, not floating-point."
            )
        if value.shape != target.shape:
            misshapen.append(f"{name} gives {value.shape} for {'/'.join(path)} {target.shape}")
        else:
            as_array = np.asarray if isinstance(target, np.ndarray) else jnp.asarray
            values[path] = as_array(value, target.dtype)
    if misshapen:
        raise UserError(
            f"the state dict is of another {network} (shapes in our layouts): "
            f"{listed(misshapen)}{_resolution_hint(misshapen)}."
        )
    return unflatten_dict(values)


def _check_windows(state_dict: Mapping[str, np.ndarray], network: str) -> None:
    """Raise a UserError for a Swin of other windows, which has the same names and shapes."""
    expected = (1, *swin.coordinate_table().shape)
    for name, x in state_dict.items():
        if name.endswith(".relative_coords_table") and x.shape != expected:
            raise UserError(
                f"the state dict's {name} has shape {x.shape}, not {expected}: {network} has "
                f"windows of {swin.WINDOW} x {swin.WINDOW} tokens, choose weights with the same."
            )


def _is_transposed(path: Sequence[str]) -> bool:
    """Whether a parameter is the kernel of `layers.doubling_conv`."""
    return path[-1] == "kernel" and any(part.startswith("double_") for part in path)


def _from_torch_layout(value: np.ndarray, path: Sequence[str]) -> np.ndarray:
    """OIHW to HWIO, a matrix (out, in) to (in, out); arrays of 1 and 3 axes stay as they are.

    A transposed convolution's IOHW becomes HWIO, turned by 180 degrees: nn.ConvTranspose lays the
    kernel itself over the spread image, PyTorch that of the convolution it transposes.
    """
    if _is_transposed(path) and value.ndim == 4:
        return value.transpose(2, 3, 0, 1)[::-1, ::-1]
    return value.transpose({2: (1, 0), 4: (2, 3, 1, 0)}.get(value.ndim, range(value.ndim)))


def _to_torch_layout(value: np.ndarray, path: Sequence[str]) -> np.ndarray:
    if _is_transposed(path):
        return value[::-1, ::-1].transpose(2, 3, 0, 1)
    return value.transpose({2: (1, 0), 4: (3, 2, 0, 1)}.get(value.ndim, range(value.ndim)))


def _variant_hint(missing: list[str], surplus: list[str]) -> str:
    """Name the variant of the file if only the number of fusions differs."""
    if not (missing and surplus and all(re.search(FUSION, name) for name in missing + surplus)):
        return ""
    one_for_all = any(re.search(FUSION + r"weight$", name) for name in surplus)
    variant = "released" if one_for_all else "paper"
    return f' (its fusions are those of variant="{variant}": build the network with that)'


def _resolution_hint(misshapen: list[str]) -> str:
    """Name the remedy if only the image size that the fusions were made for differs."""
    if not all("fusion" in words for words in misshapen):
        return ""
    return (
        "; fusions of another image size can be imported into a network of theirs and then resized "
        "by models.ctal.adapt_resolution, which --trained_at=HEIGHTxWIDTH of python -m "
        "emanet_jax.convert does"
    )
