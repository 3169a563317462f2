"""Prints the contents of a data set and what looks wrong in it, before a network is trained on it.

    python -m emanet_jax.data.check --config=nyuv2 --output=checks/nyuv2 \\
        --config.data.manual_dir=/data/nyuv2

Builds the records as training does if they are not there, reads every example once with the labels
of all tasks that have any, prints a table for every split, and writes a figure of examples,
SPLIT.png, for each. Whatever looks wrong is one line, and the exit status is then 1.
"""

import os
from pathlib import Path

from absl import flags

from emanet_jax import cli
from emanet_jax.data import files

_CONFIG = cli.define_config(required=True)
_OUTPUT = flags.DEFINE_string("output", "data_check", "Folder for the figures.")
_IMAGES = flags.DEFINE_integer("images", 8, "Rows of a figure.")
_EXPECT = flags.DEFINE_list(
    "expect", [], "Images by split if they are not the data set's own: train=8,val=4."
)


def _command() -> int:
    files.check_source(_CONFIG.value.data)
    # Imported here, so that flags are checked and --help answers before the libraries load.
    from emanet_jax.data import inspection

    place = Path(os.path.expanduser(_OUTPUT.value))
    return int(bool(inspection.check(_CONFIG.value, place, _IMAGES.value, _EXPECT.value)))


if __name__ == "__main__":
    cli.run(_command)
