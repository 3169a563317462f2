"""Files of weights to {name: array}: .pth (PyTorch, without it), .safetensors, .npz."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from emanet_jax.errors import UserError
from emanet_jax.models.weights.torch_file import FAULTS, Tensor, read_torch, unreadable

_LOG = logging.getLogger(__name__)

# Where training scripts put the state dict among what else they save.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
# What wrappers of a network put in front of its names: DataParallel, torch.compile, and the
# authors' training script, whose loss is beside the network and may have weights of its own.
WRAPPERS = ("module.", "_orig_mod.", "model.")
BESIDE_THE_NETWORK = ("loss", "criterion")

_SAFETENSORS_DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype(bool),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "U8": np.dtype(np.uint8),
}


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in a file, of the types that it is stored in; no code in it is ever run.

    A file of a training script may hold more: then the state dict is what it keeps under the first
    of `STATE_DICT_KEYS`, and the log lists what else is there and is left out. A wrapper's prefix
    (`WRAPPERS`) is taken off where every name has it but those of the loss (`loss...`,
    `criterion...`), which stay: whoever imports strictly hears of them.

    Args:
      path: of a file that ends in one of `READERS`.

    Raises:
      UserError: there is no such file, or it cannot be read, or it holds no state dict.
    """
    path = Path(path).expanduser()
    if path.suffix not in READERS:
        raise UserError(
            f"{path} has no known ending; weights are read from {', '.join(READERS)} files."
        )
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    return without_wrappers(READERS[path.suffix](path))


def without_wrappers(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict without the prefixes that wrappers of the network gave its names."""
    state_dict, stripped = dict(state_dict), True
    while stripped:
        stripped = False
        for prefix in WRAPPERS:
            inside = {name for name in state_dict if name.startswith(prefix)}
            beside = {name for name in state_dict if name.startswith(BESIDE_THE_NETWORK)}
            if inside and inside | beside == state_dict.keys():
                state_dict = {name.removeprefix(prefix): x for name, x in state_dict.items()}
                stripped = True
    return state_dict


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    return read_torch(path, lambda content: _tensors(path, content))


def _tensors(path: Path, content: Any) -> Mapping[str, Tensor]:
    """The state dict in what was saved."""
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no state dict but an object of type {_kind(content)}.")
    for key in STATE_DICT_KEYS:
        if _has_tensors(content.get(key)):
            others = sorted(map(str, content.keys() - {key}))
            _LOG.info("%s: took '%s'; left out: %s.", path, key, ", ".join(others) or "nothing")
            content = content[key]
            break
    if not _has_tensors(content):
        raise UserError(
            f"{path} holds no state dict: there are no tensors at its top nor under one of "
            f"{', '.join(STATE_DICT_KEYS)}, only the keys {sorted(map(str, content))}."
        )
    odd = [f"{name} ({_kind(x)})" for name, x in content.items() if not isinstance(x, Tensor)]
    if odd:
        raise UserError(f"{path}: in its state dict, these are no tensors: {', '.join(odd)}.")
    return content


def _has_tensors(content: Any) -> bool:
    return isinstance(content, Mapping) and any(isinstance(x, Tensor) for x in content.values())


def _kind(content: Any) -> str:
    return type(content).__name__


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise unreadable(path, "safetensors file", error) from error
    unknown = {entry["dtype"] for _, entry in entries} - _SAFETENSORS_DTYPES.keys()
    if unknown:
        raise UserError(f"{path} holds numbers of the type {', '.join(sorted(unknown))}.")
    return {
        name: np.frombuffer(entry["data"], _SAFETENSORS_DTYPES[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in entries
    }


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = np.load(path, allow_pickle=False)
        if isinstance(arrays, np.lib.npyio.NpzFile):
            with arrays:
                return dict(arrays)
    except FAULTS as error:
        raise unreadable(path, "NumPy archive", error) from error
    raise UserError(f"{path} is no NumPy archive but a single array.")


READERS: Mapping[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".pth": _read_pth,
    ".pt": _read_pth,
    ".bin": _read_pth,
    ".ckpt": _read_pth,
    ".tar": _read_pth,  # model.pth.tar, as many scripts name what is no archive of tar
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}
