"""The report as one HTML page that needs no other file and no script."""

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from emanet_jax.compare import curves
from emanet_jax.compare.curves import Chart
from emanet_jax.compare.layout import Table
from emanet_jax.compare.pictures import Example, webp

_STYLE = """
:root { color-scheme: light dark; --text: #1d2126; --soft: #626a73; --line: #d9dde2;
  --back: #ffffff; --raised: #f5f6f8; --best: #0b6b3a; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ea; --soft: #9aa3ad; --line: #353b43;
  --back: #14171a; --raised: #1d2126; --best: #63d497; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 78rem; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p, ul { margin: .4rem 0; color: var(--soft); max-width: 60rem; }
ul { padding-left: 1.1rem; font-size: .87rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; }
th, td { padding: .32rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom;
  min-width: 5.2rem; }
tbody th, thead th:first-child { text-align: left; font-weight: 600; position: sticky; left: 0;
  background: var(--back); }
tbody th.name { white-space: normal; }
tbody tr:hover td { background: var(--raised); }
td.best { font-weight: 700; color: var(--best); }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em;
  border: 1px solid var(--line); vertical-align: -.06em; }
.legend span { display: inline-block; margin-right: 1.1rem; color: var(--text); font-size: .87rem; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); }
figure { margin: 0; }
figcaption { font-size: .85rem; font-weight: 600; margin-bottom: .2rem; }
.charts img { width: 100%; display: block; }
table.pictures th, table.pictures td { border: 0; padding: 2px; text-align: left;
  font-size: .78rem; font-weight: 600; color: var(--soft); position: static; }
table.pictures tr:hover td { background: none; }
table.pictures tr.names th { padding-top: .9rem; min-width: 0; white-space: normal; }
table.pictures th.task { writing-mode: vertical-rl; transform: rotate(180deg); min-width: 0;
  text-align: center; }
table.pictures img { display: block; border-radius: 2px;
  width: clamp(104px, (min(100vw, 78rem) - 4.5rem) / var(--tiles) - 5px, 260px); }
table.pictures .photo { vertical-align: top; }
img.small { image-rendering: pixelated; }
summary { cursor: pointer; font-size: 1.1rem; font-weight: 700; margin: 2.2rem 0 .6rem; }
details td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
"""


class Content(NamedTuple):
    """What a page shows.

    Attributes:
        title: heading.
        facts: sentences below it.
        summary: the first table.
        names: of the groups, in the order of their colours and of the tiles.
        charts: of training.
        tables: the other tables.
        examples: images with labels and predictions.
        predicted_by: which run and checkpoint of each group made the tiles, in words.
        settings: [(key, value)] that all runs share.
    """

    title: str
    facts: Sequence[str]
    summary: Table
    names: Sequence[str]
    charts: Sequence[Chart]
    tables: Sequence[Table]
    examples: Sequence[Example]
    predicted_by: Sequence[str]
    settings: Sequence[tuple[str, str]]


def render(content: Content) -> str:
    """The page's text."""
    parts = [f"<h1>{_text(content.title)}</h1>"]
    parts += [f"<p>{_text(fact)}</p>" for fact in content.facts]
    parts.append(_table(content.summary))
    if content.charts:
        parts.append(_charts(content.charts, content.names))
    if content.examples:
        parts.append(_pictures(content))
    parts += [_table(table) for table in content.tables]
    parts.append(_settings(content.settings))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(content.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text)


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(x)}</th>" for x in (table.corner, *table.columns))
    rows = []
    for row in table.rows:
        swatch = ""
        if row.colour:
            red, green, blue = row.colour
            swatch = f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>'
        cells = "".join(
            f'<td class="best">{_text(x)}</td>' if i in row.best else f"<td>{_text(x)}</td>"
            for i, x in enumerate(row.cells)
        )
        name = "<th>" if swatch else '<th class="name">'  # long names of networks may wrap
        rows.append(f"<tr>{name}{swatch}{_text(row.title)}</th>{cells}</tr>")
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.notes)
    return (
        f'<h2>{_text(table.title)}</h2>\n<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
        + (f"\n<ul>{notes}</ul>" if notes else "")
    )


def _charts(charts: Sequence[Chart], names: Sequence[str]) -> str:
    legend = "".join(
        f'<span><i class="swatch" style="background:{curves.colour(i)}"></i>{_text(name)}</span>'
        for i, name in enumerate(names)
    )
    figures = "\n".join(
        f'<figure><figcaption>{_text(chart.title)}</figcaption><img alt="{_text(chart.title)}" '
        f'src="{_uri("image/svg+xml", chart.svg.encode())}"></figure>'
        for chart in charts
    )
    return (
        f'<h2>Training</h2>\n<p class="legend">{legend}</p>\n<div class="charts">\n{figures}\n'
        "</div>\n<ul><li>Lines are means over the seeds; bands reach from the least to the most."
        "</li></ul>"
    )


def _pictures(content: Content) -> str:
    names = ("label", *content.names)
    head = "".join(f"<th>{_text(name)}</th>" for name in ("image", "", *names))
    rows = []
    for example in content.examples:
        rows.append(f'<tr class="names">{head}</tr>')
        for index, shown in enumerate(example.shown):
            photo = f'<td class="photo" rowspan="{len(example.shown)}">'
            photo = f"{photo}{_image(example.image, 'image', False)}</td>" if not index else ""
            words = (f"{shown.task}, {name}" for name in names)
            tiles = "".join(
                f"<td>{_image(tile, text, shown.exact)}</td>"
                for tile, text in zip(shown.tiles, words, strict=True)
            )
            rows.append(f'<tr>{photo}<th class="task">{_text(shown.task)}</th>{tiles}</tr>')
    return (
        '<h2>Predictions</h2>\n<div class="wide"><table class="pictures" '
        f'style="--tiles:{len(names) + 1}">\n'
        + "\n".join(rows)
        + "\n</table></div>\n<ul><li>The evaluation split's first images; black: no label.</li>"
        + "".join(f"<li>{_text(text)}</li>" for text in content.predicted_by)
        + "</ul>"
    )


def _image(picture: np.ndarray, text: str, exact: bool) -> str:
    small = ' class="small"' if picture.shape[1] < 256 else ""
    return f'<img{small} alt="{_text(text)}" src="{_uri("image/webp", webp(picture, exact))}">'


def _settings(settings: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in settings)
    return (
        "<details><summary>Settings that all runs share</summary>"
        f'<div class="wide"><table><tbody>{rows}</tbody></table></div></details>'
    )


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
