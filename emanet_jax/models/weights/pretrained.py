"""Backbones that start from published ImageNet weights (config.model.pretrained).

timm's HRNet was trained with upsampling="nearest". The published networks start from it with
"bilinear", and so do ours unless config.model.overrides = {"upsampling": "nearest"}.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emanet_jax.errors import UserError, needs
from emanet_jax.models.backbones import swin
from emanet_jax.models.weights.reading import READERS, read_state_dict
from emanet_jax.models.weights.torch_names import Rules
from emanet_jax.models.weights.transfer import by_torch_name, fit, without_prefix

HUB_FILE = "model.safetensors"  # where only a repository is given
_HUB_NAME = r"\w[\w.-]*/\w([\w.-]*\w)?"
_BACKBONE = r"backbone(_\w+)?"  # a network's backbone for all tasks, or its one for each


class Published(NamedTuple):
    """How published weights of a family of backbones differ from the reference's backbone.

    Attributes:
      classifier: names of the layers that predict ImageNet's classes, left out.
      renames: rules for the published names, applied in turn.
      subtree: the part of the backbone that the weights fill; the rest keeps its random start.
      joined: what makes of all arrays those that the reference has, before the renames.
    """

    classifier: str
    renames: Rules = ()
    subtree: str = ""
    joined: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict

    def name(self, published: str) -> str:
        """The reference's name, in a network whose backbone it is, of a published one."""
        for pattern, replacement in self.renames:
            published = re.sub(pattern, replacement, published)
        return f"backbone.{published}"


def _vgg_names() -> Rules:
    """Rules for VGG-16's one list of layers: conv, norm, ReLU; a pool at every scale's end."""
    rules, index = [], 0
    for scale, convolutions in enumerate((2, 2, 3, 3, 3)):
        for unit in range(convolutions):
            block = f"conv_block_enc.{scale}" + (f".{unit - 1}" if scale > 1 else "")
            ours = f"encoder_block.{scale}" if unit == 0 else block
            rules += [(rf"^features\.{index + i}\.", f"{ours}.{i}.") for i in (0, 1)]
            index += 3
        index += 1
    return tuple(rules)


# Swin V2 of torchvision, whose `features` are stages and patch mergings in turn, and of timm, whose
# stages begin with the merging.
_SWIN_NAMES: Rules = (
    (r"^features\.", "0."),
    (r"^patch_embed\.proj\.", "0.0.0."),
    (r"^patch_embed\.norm\.", "0.0.2."),
    *((rf"^layers\.{i}\.blocks\.", f"0.{2 * i + 1}.") for i in range(4)),
    *((rf"^layers\.{i}\.downsample\.", f"0.{2 * i}.") for i in (1, 2, 3)),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^norm\.", "1."),
)


def _joined_swin(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Join timm's biases of queries and of values to torchvision's one; keys have none.

    In the authors' own files, which have timm's names, a stage ends with the merging.
    """
    at_end = "layers.0.downsample.reduction.weight" in state_dict
    joined = {
        re.sub(r"^layers\.(\d)\.(?=downsample)", lambda x: f"layers.{int(x[1]) + at_end}.", name): x
        for name, x in state_dict.items()
    }
    for name in state_dict:
        module, _, kind = name.rpartition(".")
        if kind == "q_bias" and f"{module}.v_bias" in state_dict:
            q, v = joined.pop(name), joined.pop(f"{module}.v_bias")
            joined[f"{module}.qkv.bias"] = np.concatenate([q, np.zeros_like(q), v], axis=None)
    return joined


# By the start of the backbone's name: timm's HRNet (hrnet_w18_small_v2) and torchvision's ResNet
# (timm has the same names), Swin V2 of both, and torchvision's VGG-16 with batch norm.
PUBLISHED: Mapping[str, Published] = {
    "hrnet": Published(r"(incre_modules|downsamp_modules|final_layer|classifier)\..*"),
    "resnet": Published(r"fc\..*"),
    "swin_v2": Published(r"head\..*", _SWIN_NAMES, joined=_joined_swin),
    "segnet": Published(r"classifier\..*", _vgg_names(), subtree="encoder"),
}


def load_pretrained(
    pretrained: str, backbone: str, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """The part of a network's variables that published weights fill, and a sentence about them.

    Args:
      pretrained: config.model.pretrained, see `find`.
      backbone: the network's backbone, by its name in the menu.
      variables: {"params", "batch_stats"} of the network, arrays or their abstract shapes. Every
        backbone in them (STL has one for each task) gets the same weights.

    Raises:
      UserError: the file cannot be found or read, does not fit the backbone by name and shape, or
        is for other windows than its own.
    """
    windows = re.search(r"swin\w*_window(\d+(to\d+)?)", pretrained)
    if backbone.startswith("swin") and windows and windows[1] != str(swin.WINDOW):
        raise UserError(  # weights alone do not tell: names and shapes are the same
            f"config.model.pretrained is '{pretrained}', of windows of {windows[1]} tokens; "
            f"{backbone} has windows of {swin.WINDOW}, as swinv2_tiny_window8_256 has."
        )
    path = find(pretrained)
    state_dict = read_state_dict(path)
    loaded = fill_backbones(state_dict, backbone, variables, pretrained)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return loaded, (
        f"{backbone} starts from {pretrained} ({path.name}, {len(state_dict)} tensors, "
        f"SHA-256 {digest})."
    )


def fill_backbones(
    state_dict: Mapping[str, np.ndarray], backbone: str, variables: Mapping[str, Any], origin: str
) -> dict[str, Any]:
    """The backbones' part of `variables` with the values of `state_dict`; errors name its `origin`.

    Raises:
      UserError: as `load_pretrained`.
    """
    family = next(PUBLISHED[start] for start in PUBLISHED if backbone.startswith(start))
    keys = [key for key in variables["params"] if re.fullmatch(_BACKBONE, key)]
    targets = {key: _targets(variables, key, family.subtree) for key in keys}
    known = next(iter(targets.values()))  # they all have the same names
    state_dict = without_prefix(state_dict, lambda name: family.name(name) in known)
    renamed = {
        family.name(name): value
        for name, value in family.joined(state_dict).items()
        if not re.fullmatch(family.classifier, name)
    }
    loaded: dict[str, Any] = {}
    for key in keys:
        network = f"{backbone} (config.model.pretrained is '{origin}')"
        for collection, tree in fit(renamed, targets[key], network).items():
            loaded.setdefault(collection, {})[key] = tree["backbone"]
    return loaded


def _targets(variables: Mapping[str, Any], key: str, subtree: str) -> dict[str, tuple[tuple, Any]]:
    """What published weights fill of the backbone at a key, by the reference's names."""
    own = {}
    for collection, tree in variables.items():
        if key in tree:
            own[collection] = {"backbone": {subtree: tree[key][subtree]} if subtree else tree[key]}
    return by_torch_name(own, "hps")  # in HPS, the names inside a backbone are its own


def find(pretrained: str) -> Path:
    """The file that config.model.pretrained names, fetched if need be.

    Args:
      pretrained: a file's path (with an ending of a file of weights), or a repository on Hugging
        Face, `owner/name` or `owner/name:file`, such as timm/hrnet_w18_small_v2.ms_in1k. A file
        that was fetched once is in the cache of huggingface_hub and needs no network.

    Raises:
      UserError: there is no such file, or it cannot be fetched.
    """
    path = Path(pretrained).expanduser()
    if path.is_file():
        return path
    if path.suffix in READERS and ":" not in pretrained:
        raise UserError(f"config.model.pretrained is '{pretrained}', but there is no such file.")
    repository, _, file = pretrained.partition(":")
    if not re.fullmatch(_HUB_NAME, repository):
        raise UserError(
            f"config.model.pretrained is '{pretrained}', which is neither a file of weights "
            f"({', '.join(READERS)}) nor a repository such as timm/hrnet_w18_small_v2.ms_in1k."
        )
    with needs():
        import huggingface_hub
    cached = huggingface_hub.try_to_load_from_cache(repository, file or HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)  # without asking whether there is a newer one
    end = "a file that you have can be given by its path"
    return fetch(repository, file or HUB_FILE, "config.model.pretrained", end)


def fetch(repository: str, file: str, what: str, end: str) -> Path:
    """The newest version of a file on Hugging Face, or the cached one if that is out of reach.

    Args:
      repository: owner/name.
      file: of the repository.
      what: that an error's sentence begins with.
      end: that it ends with.

    Raises:
      UserError: it cannot be fetched.
    """
    with needs():
        import huggingface_hub
        from huggingface_hub import errors
    reasons: dict[type[Exception], str] = {  # subclasses before their bases
        errors.LocalEntryNotFoundError: "Hugging Face cannot be reached and the file is not in "
        "the cache",
        errors.GatedRepoError: "it asks for its owner's consent, and then for `hf auth login`",
        errors.RepositoryNotFoundError: "there is no such repository",
        errors.EntryNotFoundError: "the repository has no such file",
    }
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file))
    except (errors.HfHubHTTPError, errors.EntryNotFoundError, OSError) as error:
        message = " ".join(str(error).split()).rstrip(".")
        reason = next((x for kind, x in reasons.items() if isinstance(error, kind)), message)
        raise UserError(
            f"{what}: {file} of {repository} cannot be fetched, as {reason}; {end}."
        ) from error
