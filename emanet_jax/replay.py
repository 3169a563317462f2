"""Repeats the step at which a run stopped because its numbers were not finite, and looks inside.

    python -m emanet_jax.replay --workdir=runs/quickstart

Needs the workdir alone, not the data. Prints the losses, and what is not finite: arrays of the
batch, the first module's output, gradients.
"""

from emanet_jax import cli

_WORKDIR = cli.define_path("workdir", "Folder of the run that stopped.")


def _command() -> None:
    # Imported here, so that flags are checked and --help answers before the libraries load.
    from emanet_jax.training import debug_nan

    print(debug_nan.report(debug_nan.replay(_WORKDIR.value)))


if __name__ == "__main__":
    cli.run(_command)
