"""Lists the commands, each with the first line of what its own --help shows.

python -m emanet_jax
"""

import ast
import sys
from pathlib import Path

COMMANDS = (
    *("main", "predict", "compare", "export", "convert"),
    *("data.check", "models", "training.debug_nan"),
)


def listing() -> str:
    """A line for every command."""
    lines = ["Commands; each has --help:", ""]
    for name in COMMANDS:
        place = Path(__file__).parent.joinpath(*name.split("."))
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        words = ast.get_docstring(ast.parse(file.read_text())) or ""
        lines.append(f"  python -m emanet_jax.{name:20}{words.partition(chr(10))[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    wrong = [x for x in sys.argv[1:] if x not in ("--help", "-h")]
    if wrong:
        sys.exit(f"error: python -m emanet_jax takes no '{wrong[0]}': it lists the commands.")
    print(listing())
