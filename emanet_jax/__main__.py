"""Runs the commands, as `emanet-jax COMMAND` or as `python -m emanet_jax COMMAND`.

Each is a module with a command line of its own as well: `emanet-jax train --config=synthrooms` is
`python -m emanet_jax.main --config=synthrooms`. Without a command it lists them.
"""

import ast
import runpy
import sys
from pathlib import Path

from emanet_jax.errors import end

# {command: its module below the package, and flags that it always has}
COMMANDS = {
    "train": ("main",),
    "eval": ("main", "--mode=eval"),
    "predict": ("predict",),
    "compare": ("compare",),
    "export": ("export",),
    "convert": ("convert",),
    "check": ("data.check",),
    "models": ("models",),
    "sweep": ("sweep",),
    "debug-nan": ("training.debug_nan",),
}
EVAL = "Evaluates a run."


def listing() -> str:
    """A line for every command, with the first line of what its own --help shows."""
    lines = ["usage: emanet-jax COMMAND [--help] [--FLAG=VALUE ...]", ""]
    for name, (module, *flags) in COMMANDS.items():
        place = Path(__file__).parent.joinpath(*module.split("."))
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        words = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
        call = " ".join([f"python -m emanet_jax.{module}", *flags])
        lines += [f"  {name:11}{EVAL if flags else words}", f"{'':13}{call}"]
    return "\n".join(lines)


def main() -> None:
    """Runs the command that the command line names, or lists all."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(listing())
    elif name == "--version":
        from emanet_jax import __version__

        print(__version__)
    elif name not in COMMANDS:
        sys.exit(
            f"error: '{name}' is no command; choose from {', '.join(COMMANDS)}{end(name, COMMANDS)}"
        )
    else:
        module, *flags = COMMANDS[name]
        sys.argv = [sys.argv[0], *flags, *arguments]
        runpy.run_module(f"emanet_jax.{module}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
