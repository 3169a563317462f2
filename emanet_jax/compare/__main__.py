"""Compares runs: one HTML page with tables, curves and pictures, and the tables in other forms.

    python -m emanet_jax.compare --workdirs=runs/stl,runs/hps,runs/ema_net --output=report
    python -m emanet_jax.compare --workdirs runs/nyuv2_* --output=runs/sweep/report

A folder of --workdirs may be a run or hold runs. Runs that differ in their seeds alone make one
row, with mean and standard deviation. delta_m is taken against the network stl, or --reference.
Numbers are of each run's last evaluation; pictures of its latest checkpoint, which they belong to,
or with --checkpoint=best of its best. The folder of --output gets report.html (nothing else is
needed to read it), report.md, report.tex (tables for the package booktabs) and report.json.
"""

from absl import flags
from etils import epath

from emanet_jax import cli
from emanet_jax.errors import UserError

_WORKDIRS = flags.DEFINE_multi_string(
    "workdirs",
    None,
    "Runs, or folders that hold runs, with commas or spaces between.",
    required=True,
)
_OUTPUT = cli.define_path("output", "Folder of the report.")
_REFERENCE = flags.DEFINE_string("reference", None, "Workdir of the run that delta_m is against.")
_IMAGES = flags.DEFINE_integer("images", 4, "Images with predictions; 0 needs no data.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "latest", ["best", "latest"], "Which checkpoint of the runs predicts them."
)


def _command() -> None:
    places = [place for value in _WORKDIRS.value for place in value.split(",")]
    for place in places:
        if not epath.Path(place).expanduser().exists():
            raise UserError(f"--workdirs={place}: there is no such folder.")
    # Imported here, so that flags are checked and --help answers before the libraries load.
    from emanet_jax.compare import report

    report.write(
        *(places, _OUTPUT.value, _REFERENCE.value),
        images=_IMAGES.value,
        checkpoint=_CHECKPOINT.value,
    )


if __name__ == "__main__":
    cli.run(_command)
