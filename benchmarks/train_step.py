"""Time, memory and operations of a training step and of inference, as the training loop has them.

    python -m benchmarks.train_step --config=configs/nyuv2.py:model=ema_net --batch=8
    python -m benchmarks.train_step --config=configs/nyuv2.py --all --csv=runs/steps.csv
    python -m benchmarks.train_step --config=configs/nyuv2.py --precision=bfloat16 --profile
    python -m benchmarks.train_step --config=configs/nyuv2.py --precision=bfloat16 \\
        --networks=hps,mti_net,ema_net,ema_net_ms --batch=8,32,128 --csv=runs/steps.csv

Images and labels are random and lie on the device: no data set is read, and neither TensorFlow nor
TFDS, CLU or Grain are needed. Inference is the network with its activations ("predict" makes class
ids, metres and unit vectors of images). TFLOP is XLA's count of a step's operations before it
optimises, with every round of a loop; the share is of the device's peak: its data sheet's, on a CPU
that of a large product of matrices. Memory is what one device holds while it runs, by XLA's
analysis; programs that need more than a GPU or TPU has are compiled and not run. --profile writes a
trace for TensorBoard or Perfetto, and prints what takes longest.
"""

import itertools
import pathlib
import re

from absl import flags

from emanet_jax import cli
from emanet_jax.errors import UserError

_CONFIG = cli.define_config()
_BATCH = flags.DEFINE_list("batch", ["8"], "Images in a batch; several: one after the other.")
_PRECISION = flags.DEFINE_list(
    "precision", ["float32"], "What networks compute in: float32, bfloat16 or both."
)
_ALL = flags.DEFINE_bool("all", False, "Every network of the menu, each on its usual backbone.")
_NETWORKS = flags.DEFINE_list(
    "networks", [], "Of the menu, each on its usual backbone; none: the config's."
)
_PHASES = flags.DEFINE_list("phases", ["train", "predict"], "What to measure.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "How long to repeat each of them.", lower_bound=0.0)
_CSV = flags.DEFINE_string("csv", "", "File for the table.")
_PROFILE = flags.DEFINE_bool("profile", False, "Trace three steps and list the longest operations.")
_TRACES = flags.DEFINE_string("traces", "runs/traces", "Folder for the traces.")


def _check_choices(flag: str, known: tuple[str, ...]) -> None:
    for value in flags.FLAGS[flag].value:
        if value not in known:
            raise UserError(f"--{flag}={value} is unknown; choose from {', '.join(known)}.")


def _command() -> None:
    if _CONFIG.value is None:
        raise UserError("--config is missing; give one such as --config=configs/nyuv2.py.")
    _check_choices("precision", ("float32", "bfloat16"))
    _check_choices("phases", ("train", "predict"))
    for value in _BATCH.value:
        if not re.fullmatch("[1-9][0-9]{0,5}", value):
            raise UserError(f"--batch={value} is no number of images; write it as 8, or 8,32.")
    from benchmarks import counts, steps_measured
    from benchmarks.timing import machine

    config = _CONFIG.value
    usual = steps_measured.usual_networks()
    _check_choices("networks", tuple(usual))
    chosen = list(usual) if _ALL.value else _NETWORKS.value
    networks = {x: usual[x] for x in chosen} or {config.model.name: config.model.backbone}
    print(f"{machine()}; {' x '.join(map(str, config.data.image_size))}")
    print(steps_measured.HEADER, flush=True)
    rows = []
    cases = itertools.product(networks.items(), _PRECISION.value, map(int, _BATCH.value))
    for (name, backbone), precision, batch in cases:
        program = steps_measured.make_program(config, batch, precision, name, backbone)
        for phase in _PHASES.value:
            traces = pathlib.Path(_TRACES.value) if _PROFILE.value else None
            row, longest = steps_measured.measure(
                program, phase, _SECONDS.value, traces, counts.device_mib()
            )
            rows.append(row)
            print(steps_measured.line(row), *longest, sep="\n", flush=True)
            if _CSV.value:
                steps_measured.write_csv(rows, pathlib.Path(_CSV.value))
    if _CSV.value:
        print(f"written: {_CSV.value}")


if __name__ == "__main__":
    cli.run(_command)
