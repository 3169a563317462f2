"""Time, memory and operations of a training step and of inference, as the training loop has them.

    python -m benchmarks.train_step --config=nyuv2:model=ema_net --batch=8
    python -m benchmarks.train_step --config=nyuv2 --all --csv=runs/steps.csv
    python -m benchmarks.train_step --config=nyuv2 --networks=hps,ema_net \\
        --precision=float32,bfloat16 --batch=8,32 --config.remat=blocks --config.accumulate=4
    python -m benchmarks.train_step --config=nyuv2:model=hps --phases=train \\
        --balancing=equal,famo,pcgrad,mgda
    JAX_NUM_CPU_DEVICES=4 python -m benchmarks.train_step ... --config.mesh.spatial=2

Images and labels are random and lie on the device: no data set is read, and neither TensorFlow nor
TFDS, CLU or Grain are needed. Inference is the network with its activations ("predict" makes class
ids, metres and unit vectors of images). Times are the shortest seen. TFLOP is XLA's count before it
optimises, with every round of a loop; the share is of the device's peak: its data sheet's, on a CPU
that of a large product of matrices. Memory is what one device holds while it runs, by XLA's
analysis; programs that need more than a GPU or TPU has are compiled and not run. --traces=FOLDER
gets a trace of three steps of each for TensorBoard or Perfetto.
"""

import itertools
import math
import pathlib
import re

from absl import flags

from emanet_jax import cli, menu
from emanet_jax.config import CHOICES, SHORT
from emanet_jax.errors import UserError

_CONFIG = cli.define_config(required=True)
_BATCH = flags.DEFINE_list("batch", ["8"], "Images in a batch; several: one after the other.")
_PRECISION = flags.DEFINE_list("precision", ["float32"], "float32, bfloat16 or both.")
_NETWORKS = flags.DEFINE_list("networks", [], "Each on its usual backbone; none: the config's.")
_ALL = flags.DEFINE_bool("all", False, "Every network, each on its usual backbone.")
_BALANCING = flags.DEFINE_list("balancing", [], "Of the losses; none: the config's.")
_PHASES = flags.DEFINE_list("phases", ["train", "predict"], "What to measure.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "How long to repeat each of them.", lower_bound=0.0)
_CSV = flags.DEFINE_string("csv", "", "File for the table.")
_TRACES = flags.DEFINE_string("traces", "", "Folder for traces.")


def _command() -> None:
    precisions = [SHORT.get(name, name) for name in _PRECISION.value]
    cli.check_names("precision", precisions, CHOICES["precision"])
    cli.check_names("phases", _PHASES.value, ("train", "predict"))
    cli.check_names("networks", _NETWORKS.value, menu.NETWORKS)
    cli.check_names("balancing", _BALANCING.value, menu.METHODS)
    for value in _BATCH.value:
        if not re.fullmatch("[1-9][0-9]{0,5}", value):
            raise UserError(f"--batch={value} is no number of images; write it as 8, or 8,32.")
    # Imported here, so that flags are checked and --help answers before the libraries load.
    import jax

    from benchmarks import common

    usual = common.usual_networks()
    stats = jax.devices()[0].memory_stats()  # None: CPUs do not say
    most_mib = stats["bytes_limit"] / 2**20 if stats else math.inf
    size = " x ".join(map(str, _CONFIG.value.data.image_size))
    print(f"{common.machine()}; {size}", common.STEP_HEADER, sep="\n", flush=True)
    rows = []
    for name, method, precision, batch, phase in itertools.product(
        (usual if _ALL.value else _NETWORKS.value) or [""],
        _BALANCING.value or [""],
        precisions,
        map(int, _BATCH.value),
        _PHASES.value,
    ):
        config = _CONFIG.value.copy_and_resolve_references()
        with config.unlocked():
            config.precision, config.batch_size = precision, batch
            config.balancing = method or config.balancing
            if name not in ("", config.model.name):
                config.model.name, config.model.overrides = name, {}
            if name:
                config.model.backbone = usual[name]
        traces = pathlib.Path(_TRACES.value) if _TRACES.value else None
        rows.append(common.measure_step(config, phase, _SECONDS.value, most_mib, traces=traces))
        print(common.step_line(rows[-1]), flush=True)
        if _CSV.value:
            common.write_csv(rows, pathlib.Path(_CSV.value))
        jax.clear_caches()  # or all programs stay in memory: gigabytes


if __name__ == "__main__":
    cli.run(_command)
