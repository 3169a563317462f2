"""Trains a network, or evaluates a run.

    python -m emanet_jax.main --config=synthrooms --workdir=runs/quickstart
    python -m emanet_jax.main --config=nyuv2:model=ema_net --workdir=runs/nyuv2 \\
        --config.data.manual_dir=/data/nyuv2 --config.tasks=semseg,depth --config.precision=bf16
    python -m emanet_jax.main --mode=eval --workdir=runs/nyuv2

--config names a recipe of configs/, or a file; --config.KEY=VALUE changes any of the keys that
emanet_jax/config.py lists with their defaults.

Started again with the same flags, it goes on where it stopped; --allow_config_change lets it go on
with other settings, such as more epochs. The exit status is 0 when the run is done, 1 after an
error of the user's, which is one line, and 75 when SIGTERM, Ctrl-C or the loss of another process
has stopped the run, so that whoever started it knows to start it again (Slurm, Kubernetes,
SkyPilot).

Several processes, one a host, train together if each of them is started like this; their workdir
must be on a disk that all share:

    python -m emanet_jax.main ... --distributed=auto            # Cloud TPU, Slurm, Kubernetes
    python -m emanet_jax.main ... --coordinator=HOST0:1234 --process_count=2 --process_id=0

What XLA has compiled is kept in .jax_cache beside the workdir, so that the same network starts at
once the next time; JAX_COMPILATION_CACHE_DIR=FOLDER in the environment keeps it elsewhere, and
JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
"""

import os
import pathlib

from absl import flags

from emanet_jax import cli
from emanet_jax.config import check_config
from emanet_jax.errors import UserError

_CONFIG = cli.define_config()
_WORKDIR = cli.define_path("workdir", "Folder of the run: checkpoints, metrics and figures.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate a workdir.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "Which checkpoint --mode=eval takes."
)
_ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Go on with a run although settings of its config have changed."
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "off", ["off", "auto"], "auto: find the run's other processes."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "Processes of the run.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is.", lower_bound=0)


def _command() -> int:
    if _MODE.value == "train" and _CONFIG.value is None:
        raise UserError("--mode=train needs --config, such as --config=synthrooms.")
    # Imported here, so that flags are checked and --help answers before the libraries load.
    from emanet_jax.data import files
    from emanet_jax.training import workdir

    if _MODE.value == "train":
        config = _CONFIG.value
    else:
        config = workdir.load_config(workdir.absolute(_WORKDIR.value))
        check_config(config)
    files.check_source(config.data)
    others = (_COORDINATOR.value, _PROCESS_COUNT.value, _PROCESS_ID.value)
    if _DISTRIBUTED.value == "off" and others == (None, None, None):
        return _work()
    from emanet_jax.training import peers

    peers.work_in_a_child()
    from emanet_jax.training import sharding

    sharding.connect(_DISTRIBUTED.value, *others)
    with peers.until_the_verdict():
        return _work()


def _work() -> int:
    """Trains or evaluates; the exit status."""
    _keep_compiled(_WORKDIR.value)
    from emanet_jax.training import loop

    if _MODE.value == "eval":
        loop.evaluate_workdir(_WORKDIR.value, _CHECKPOINT.value)
        return os.EX_OK
    finished = loop.train_and_evaluate(
        _CONFIG.value, _WORKDIR.value, allow_config_change=_ALLOW_CHANGE.value
    )
    return os.EX_OK if finished else os.EX_TEMPFAIL


def _keep_compiled(directory: str) -> None:
    """Has JAX keep compiled programs beside a workdir, unless the environment says where."""
    import jax

    # XLA:CPU was seen to crash while it wrote programs for several of its devices, which are fakes.
    fakes = jax.default_backend() == "cpu" and jax.local_device_count() > 1
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and "://" not in directory and not fakes:
        folder = pathlib.Path(directory).expanduser().absolute().parent / ".jax_cache"
        jax.config.update("jax_compilation_cache_dir", str(folder))


if __name__ == "__main__":
    cli.run(_command)
