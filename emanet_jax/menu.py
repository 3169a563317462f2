"""The names that a config chooses from, known without the libraries that networks and data need.

So a misspelt name is answered before they load. The registries of the same names say what each
stands for: models/registry.py, balancing, tasks/registry.py.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from emanet_jax.errors import UserError, check_name, end

Entry = TypeVar("Entry")


class Names(Collection[str]):
    """The names in a registry: this package's own, then those that users have registered.

    Args:
        what: kind of the entries, for messages.
        own: of this package.
    """

    def __init__(self, what: str, *own: str) -> None:
        self.what, self.own = what, own
        self._registered: dict[str, None] = {}  # in order, each once

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self._registered

    def __iter__(self) -> Iterator[str]:
        return iter((*self.own, *self._registered))

    def __len__(self) -> int:
        return len(self.own) + len(self._registered)

    def register(self, name: str, entry: Entry, registry: dict[str, Entry]) -> None:
        """Adds a user's entry to a registry, or replaces it, as a notebook's cell that runs again.

        Args:
            name: of the entry.
            entry: what the registry gives for it.
            registry: of this package.

        Raises:
            UserError: the name is one of this package's own.
        """
        what = self.what
        if name in self.own:
            raise UserError(f"{what} '{name}' is one of this package's own; choose another name.")
        registry[name] = entry
        self._registered[name] = None


NETWORKS = Names(
    "network",
    *("stl", "hps", "pad_net", "pap_net", "ema_net", "mti_net", "ema_net_ms", "mtan", "ati_net"),
)
BACKBONES = Names(
    "backbone",
    *("hrnet_w18", "hrnet_tiny", "resnet34", "resnet50", "resnet_tiny"),
    *("swin_v2_t", "swin_v2_s", "swin_v2_b", "swin_v2_tiny", "segnet", "segnet_tiny"),
)
METHODS = Names(
    "method of balancing",
    *("equal", "fixed", "uncertainty", "dwa", "rlw", "gls", "stch", "famo", "imtl_l"),
    *("pcgrad", "cagrad", "mgda", "gradnorm", "graddrop", "gradvac", "imtl_g"),
    *("nash_mtl", "aligned_mtl", "fairgrad", "db_mtl"),
)
DATASETS = Names("data set", "synthrooms", "nyuv2", "cityscapes", "pascal_context")

# The tasks of each data set, in their canonical order.
TASKS: dict[str, tuple[str, ...]] = {
    "synthrooms": ("semseg", "depth", "normals"),
    "nyuv2": ("semseg", "depth", "normals"),
    "cityscapes": ("semseg", "depth"),
    "pascal_context": ("semseg", "normals", "saliency", "edge", "human_parts"),
}

# The layouts of source files that each data set is built from, and what config.data.manual_dir
# holds in each. A user's data set may need files that only its builder knows: "".
LAYOUTS: dict[str, Mapping[str, str]] = {
    "nyuv2": {
        "mtan": "{train,val}/{image,label,depth,normal}/0.npy, 1.npy, ...",
        "labeled": "nyu_depth_v2_labeled.mat",
    },
    "cityscapes": {
        "mtan": "{train,val}/{image,label_7,label_19,depth}/0.npy, 1.npy, ...",
        "official": "leftImg8bit/{train,val}, gtFine/{train,val} and disparity/{train,val}",
    },
    "pascal_context": {"pascal_mt": "JPEGImages, semseg, human_parts, ImageSets, ..."},
}


def check_layout(dataset: str, layout: str) -> None:
    """Raises UserError unless the data set has this layout, or has none to choose from."""
    layouts = LAYOUTS.get(dataset)
    if layouts:
        check_name("config.data.layout", layout, layouts)


def check_tasks(dataset: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    """Checks that tasks may be trained together.

    Args:
        dataset: the name of the data set, for the message.
        chosen: names of tasks.
        known: names of the data set's tasks.

    Raises:
        UserError: there are none, or one is unknown or there twice.
    """
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise UserError(
            f"tasks {list(chosen)} do not fit data set '{dataset}': choose one or more of "
            f"{', '.join(known)}, each once{end(''.join(unknown[:1]), known)}"
        )
