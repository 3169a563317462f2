"""Photos, a video or a camera through a run's network: pictures for people, arrays for programs.

    python -m emanet_jax.predict --workdir=runs/quickstart --images=photos --output=out
    python -m emanet_jax.predict --workdir=runs/quickstart --images photos/*.jpg --output=out
    python -m emanet_jax.predict --workdir=runs/quickstart --video=walk.mp4 --output=out
    python -m emanet_jax.predict --workdir=runs/quickstart --video=camera --seconds=20 --output=out

For photos/a.jpg it writes out/a.png, a figure with the photo and every task's map, and out/a.npz
with the maps at the photo's size: class ids (h, w) as uint8, all else as float32, depth (h, w) in
metres, normals (h, w, 3), rounded to a part in 8192. --save=figure,npz,png,overlay adds plain maps,
out/a_semseg.png (class ids, 8 bits) and out/a_depth.png (millimetres, 16 bits), and classes over
the photo, out/a_semseg_overlay.png. In figures a depth map's colours run over its own range, which
the bar below it shows. Photos may have any sizes and formats: all are stretched to the size that
the network takes, so batches mix them, and its maps are brought back. --size=480x640 runs the
network at another size, such as one nearer to the photos' shape. Files that cannot be read are
named and left out, and the exit status is 1. Files of the same names in --output are replaced,
nothing else.

For a video it writes the figures alone, as out/NAME.mp4; the range of a depth map's colours then
follows what is seen within some seconds. Ctrl-C ends it early.
"""

import logging
import os
from pathlib import Path
from typing import Literal, cast

from absl import flags
from etils import epath

from emanet_jax import cli
from emanet_jax.errors import UserError

_WORKDIR = cli.define_path(
    "workdir", "Folder of the run, or one that emanet_jax.save_pretrained has made."
)
_OUTPUT = cli.define_path("output", "Folder to write to.")
_IMAGES = flags.DEFINE_multi_string(
    "images", [], "Files, folders, which are searched, and globs, with commas or spaces between."
)
_VIDEO = flags.DEFINE_string("video", None, "A video file, or camera.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "Which checkpoint of the run to take."
)
_SIZE = flags.DEFINE_string("size", None, "Size to run the network at, 288x384; the run's.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 8, "Images that go through the network together.", lower_bound=1, upper_bound=4096
)
_SAVES = ("figure", "npz", "png", "overlay")
_SAVE = flags.DEFINE_list(
    "save", ["figure", "npz"], f"What to write of photos: some of {', '.join(_SAVES)}."
)
_EVERY = flags.DEFINE_integer("every", 1, "Take one of so many frames of a video.", lower_bound=1)
_SECONDS = flags.DEFINE_integer("seconds", None, "Of a video to take; all.", lower_bound=1)

_LOG = logging.getLogger("emanet_jax.predict")


def _command() -> int:
    if bool(_IMAGES.value) == bool(_VIDEO.value):
        raise UserError("give either --images, such as --images=photos, or --video.")
    if not _SAVE.value or set(_SAVE.value) - set(_SAVES):
        raise UserError(f"--save={','.join(_SAVE.value)} must be some of {', '.join(_SAVES)}.")
    if _VIDEO.value and _SAVE.present:
        raise UserError("--save is for photos, a --video becomes figures; leave it out.")
    size = None if _SIZE.value is None else cli.image_size("size", _SIZE.value)
    output = Path(_OUTPUT.value).expanduser()

    # Imported here, so that flags are checked and --help answers before the libraries load.
    from emanet_jax.predict import photos
    from emanet_jax.training import workdir

    source = os.path.expanduser(_VIDEO.value or "")
    if source:
        from emanet_jax.predict import video  # needs imageio, which photos can spare

        video.check_source(source)
    paths = photos.find(_IMAGES.value, output) if _IMAGES.value else []
    directory = workdir.absolute(epath.Path(_WORKDIR.value).expanduser())
    if not workdir.is_saved(directory):
        workdir.load_config(directory)
    from emanet_jax import inference
    from emanet_jax.predict import loops

    which = cast(Literal["best", "latest"], _CHECKPOINT.value)
    trained = inference.load_trained(directory, which, size)
    h, w = trained.config.data.image_size
    _LOG.info(
        "%s: %s on %s, images of %dx%d.",
        *(trained.checkpoint, trained.config.model.name, trained.config.model.backbone, h, w),
    )
    if source:
        network = inference.Predictor(trained, _BATCH_SIZE.value)
        path = output / f"{Path(source).stem}.mp4"
        count = loops.write_video(network, source, path, every=_EVERY.value, seconds=_SECONDS.value)
        _LOG.info("%s: %d frames.", path, count)
        return 0
    network = inference.Predictor(trained, min(_BATCH_SIZE.value, len(paths)))
    left_out = loops.write_photos(network, paths, output, _SAVE.value)
    _LOG.info("%s: %d photos, %d left out.", output, len(paths) - len(left_out), len(left_out))
    return int(bool(left_out))


if __name__ == "__main__":
    cli.run(_command)
