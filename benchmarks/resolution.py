"""Evaluates a trained run at other resolutions than its own, CTAL's fusions adapted.

    python -m benchmarks.resolution --workdir=runs/quickstart \\
        --image_size=64,96 --image_size=128,192

Restores the run's best checkpoint, passes the state through `models.ctal.adapt_resolution`, and
evaluates on the evaluation split at each size. Sizes are multiples of 32. For a data set that is
built from files of one size, the data for another size must be there (config.data).
"""

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import ml_collections
from etils import epath

from benchmarks.timing import size
from emanet_jax.errors import UserError

STRIDE = 4  # of the grid that CTAL works on, in pixels of the image, for the HRNet backbones


def at_size(
    config: ml_collections.ConfigDict, image_size: tuple[int, int]
) -> ml_collections.ConfigDict:
    """The config of a run, for images of another size."""
    config = copy.deepcopy(config).unlock()
    config.data.image_size = image_size
    return config.lock()


def restore(config: ml_collections.ConfigDict, directory: epath.Path) -> Any:
    """The train state of the best checkpoint of a run."""
    from emanet_jax.training import workdir
    from emanet_jax.training.checkpoint import Checkpoints
    from emanet_jax.training.experiment import make_experiment

    experiment = make_experiment(config)
    folder = directory / workdir.CHECKPOINTS
    with Checkpoints(folder, experiment.checkpoint_policy, read_only=True) as checkpoints:
        step = checkpoints.best_step()
        if step is None:
            raise UserError(f"{directory} holds no checkpoint yet; train it first.")
        return checkpoints.restore(step, experiment.abstract_state())


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Parses the flags, evaluates and prints a table; returns {size: {"task/metric": value}}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=epath.Path, required=True, help="folder of a run")
    parser.add_argument(
        "--image_size", type=size, action="append", required=True, help="H,W; may be repeated"
    )
    parser.add_argument(
        "--data_dir", default=None, help="instead of the run's config.data.data_dir"
    )
    args = parser.parse_args(argv)
    # Imported here, so that flags are checked and --help answers before the libraries load.
    import jax

    from emanet_jax.models.ctal import adapt_resolution
    from emanet_jax.training import evaluation, logs, sharding, workdir
    from emanet_jax.training.experiment import make_experiment

    directory = args.workdir.absolute()
    config = workdir.load_config(directory)
    if args.data_dir is not None:
        config.data.data_dir = args.data_dir
    state = restore(config, directory)
    trained = tuple(config.data.image_size)
    columns = {}
    for image_size in args.image_size:
        grids = [tuple(side // STRIDE for side in hw) for hw in (trained, image_size)]
        resized = at_size(config, image_size)
        experiment = make_experiment(resized)
        adapted = jax.device_put(
            adapt_resolution(state, *grids), sharding.replicated(experiment.mesh)
        )
        name = "x".join(map(str, image_size))
        result = evaluation.evaluate_split(experiment, adapted)
        assert result
        columns[name] = result.values
    print(f"trained at {trained[0]}x{trained[1]}, evaluated at:")
    print(logs.table(columns))
    return columns


if __name__ == "__main__":
    main()
