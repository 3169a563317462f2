"""Tables as they will be read, and their texts in Markdown and LaTeX."""

from typing import NamedTuple


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        title: its first cell.
        cells: texts, one a column.
        best: the columns whose cell is the best.
        colour: RGB of the class that it is about.
    """

    title: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()
    colour: tuple[int, int, int] | None = None


class Table(NamedTuple):
    """A table; `notes` are sentences below it."""

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def markdown(table: Table) -> str:
    """The table in Markdown, with its title and notes."""
    lines = [f"| {table.corner} | " + " | ".join(table.columns) + " |"]
    lines.append("|---" * (len(table.columns) + 1) + "|")
    for row in table.rows:
        cells = (f"**{x}**" if i in row.best else x for i, x in enumerate(row.cells))
        lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    notes = "".join(f"\n- {note}" for note in table.notes)
    return f"### {table.title}\n\n" + "\n".join(lines) + "\n" + notes + ("\n" if notes else "")


# What stands for these characters in LaTeX, in the order in which they are replaced.
_LATEX = {
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "Δm": r"$\Delta_m$",
    "°": r"$^\circ$",
    "±": r"$\pm$",
    "–": "--",
    "\u00a0": "~",
}


def latex(table: Table) -> str:
    """The table's rows for a LaTeX tabular, its columns named in a row of comments."""

    def escaped(text: str) -> str:
        for plain, command in _LATEX.items():
            text = text.replace(plain, command)
        return text

    lines = [f"% {table.title}: {' | '.join((table.corner, *table.columns))}"]
    for row in table.rows:
        cells = [
            rf"\textbf{{{escaped(x)}}}" if i in row.best else escaped(x)
            for i, x in enumerate(row.cells)
        ]
        lines.append(" & ".join([escaped(row.title), *cells]) + r" \\")
    return "\n".join(lines) + "\n"
