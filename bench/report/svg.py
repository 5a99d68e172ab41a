"""A figure of matplotlib's as an SVG within a page: nothing from outside, the page's colours, and words for it."""

from __future__ import annotations

import io
import re
from itertools import count
from typing import Any
from xml.etree import ElementTree

from matplotlib.figure import Figure

# matplotlib draws in these, and the page's style sheet says what they are: it has others where the page is dark. The
# numbers only need to occur nowhere else.
INK, FAINT, PAPER = "#0a0b01", "#0a0b02", "#0a0b03"
SERIES = tuple(f"#0a0c0{n}" for n in range(1, 8))
_VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    PAPER: "--paper",
    **{c: f"--series-{n}" for n, c in enumerate(SERIES, 1)},
}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters: small, searchable, read aloud
    "svg.hashsalt": "report",  # the same figures make the same file
    "text.parse_math": False,  # names come from a file; a $ in one is a $
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 1.2,
    "legend.frameon": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
_XLINK = "{http://www.w3.org/1999/xlink}href"


def as_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Call it with `STYLE` in force. `name` is unique in the page: it keeps the ids of its figures apart."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg")
    root = ElementTree.fromstring(drawn.getvalue())  # noqa: S314 - matplotlib wrote it, just now
    # It holds the names of vocabularies, as addresses on the net, and nothing that a reader of the page needs.
    for metadata in root.findall("{*}metadata"):
        root.remove(metadata)
    _adapt(root, name)
    width, height = root.attrib.pop("width", ""), root.attrib.pop("height", "")
    del width, height  # the page decides; the viewBox keeps the proportions
    root.attrib.update({"role": "img", "aria-labelledby": f"{name}-title {name}-description"})
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'description'}"})
        element.text = text
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(root: ElementTree.Element, name: str) -> None:
    numbers = count()
    renamed = {e.attrib["id"]: f"{name}-{next(numbers)}" for e in root.iter() if "id" in e.attrib}
    for element in root.iter():
        element.tag = element.tag.partition("}")[2] or element.tag  # within HTML an svg needs no namespace
        if link := element.attrib.pop(_XLINK, None):
            element.attrib["href"] = f"#{renamed[link[1:]]}"
        for attribute, value in element.attrib.items():
            if attribute == "id":
                element.attrib["id"] = renamed[value]
            elif attribute != "href":
                element.attrib[attribute] = _coloured(
                    re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{renamed[m[1]]})", value)
                )
    root.attrib.pop("version", None)


def _coloured(value: str) -> str:
    for drawn, variable in _VARIABLES.items():
        value = value.replace(drawn, f"var({variable})")
    return re.sub(
        r"font-family: [^;]+;?|(font: [\d.]+px) [^;]+", lambda m: f"{m[1]} sans-serif" if m[1] else "", value
    )
