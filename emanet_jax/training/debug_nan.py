"""Repeats the step at which a run stopped because its numbers were not finite, and looks inside.

    python -m emanet_jax.training.debug_nan --workdir=runs/quickstart

Needs the workdir alone, not the data. Prints the losses, and the names of what is not finite:
arrays of the batch, modules in the order of the forward pass, gradients.
"""

from emanet_jax import cli

_WORKDIR = cli.define_path("workdir", "Folder of the run that stopped.")


def _command() -> None:
    # Imported here, so that flags are checked and --help answers before the libraries load.
    from emanet_jax.training import workdir

    workdir.load_config(workdir.absolute(_WORKDIR.value))
    from emanet_jax.training import bad_steps

    print(bad_steps.debug(_WORKDIR.value))


if __name__ == "__main__":
    cli.run(_command)
