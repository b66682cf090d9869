"""From a matplotlib figure to an inline SVG that follows the page: its colours, its font, its dark scheme.

Figures are drawn with placeholder colours (`Paint`); on the way out each becomes a CSS variable, style attributes
become plain attributes (the page's security policy allows no inline styles), and text stays text. Nothing here knows
what a figure shows, and no global state of matplotlib (pyplot) is used.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree  # the only XML read is what matplotlib has just written

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes

_NAMES: Final = ["ink", "soft", "line", "card", "ok", "ko", "uncertain", "accent"] + [
    f"step-{step}" for step in range(6)
]
_VARIABLES: Final = {f"#5eed{number:02x}": f"var(--{name})" for number, name in enumerate(_NAMES)}
_PLACEHOLDERS: Final = dict(zip(_NAMES, _VARIABLES, strict=True))


class Paint:
    """Colours by their part in the page; the style sheet says what they look like."""

    INK = _PLACEHOLDERS["ink"]
    SOFT = _PLACEHOLDERS["soft"]
    LINE = _PLACEHOLDERS["line"]
    CARD = _PLACEHOLDERS["card"]
    OK = _PLACEHOLDERS["ok"]
    KO = _PLACEHOLDERS["ko"]
    UNCERTAIN = _PLACEHOLDERS["uncertain"]
    ACCENT = _PLACEHOLDERS["accent"]
    STEPS = tuple(_PLACEHOLDERS[f"step-{step}"] for step in range(6))
    """From early to late, or from poor to good: ever stronger against the page."""


@dataclass(frozen=True)
class Picture:
    """A drawn figure with what a reader needs beside it.

    Attributes:
        title: a few words.
        svg: markup without any outside reference.
        caption: what is seen, in plain words, with the number of photos or trials.
        wide: whether it needs the page's whole width.
    """

    title: str
    svg: Markup
    caption: str
    wide: bool = False


_UNITS_PER_INCH = 72
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "okko",
    # A dollar sign in a name is a dollar sign.
    "text.parse_math": False,
    "font.size": 12,
    "text.color": Paint.INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": Paint.SOFT,
    "axes.linewidth": 0.8,
    "axes.labelcolor": Paint.INK,
    "axes.labelpad": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": Paint.LINE,
    "grid.linewidth": 0.8,
    "xtick.color": Paint.SOFT,
    "ytick.color": Paint.SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 6,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "lines.markeredgecolor": Paint.CARD,
    "lines.markersize": 7,
    "patch.linewidth": 0,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.3,
    "legend.handletextpad": 0.6,
}


def house_style() -> AbstractContextManager[None]:
    """Draw inside this: matplotlib with okko's type sizes, colours and quiet axes."""
    return mpl.rc_context(_STYLE)


def canvas(width: int = 400, height: int = 290, *, left: int = 68, bottom: int = 50, right: int = 12) -> Axes:
    """Returns empty axes on a new figure; sizes in SVG units, about one pixel on a screen.

    The strip above the axes is for the legend (`legend_on_top`).
    """
    top = 28
    figure = Figure(figsize=(width / _UNITS_PER_INCH, height / _UNITS_PER_INCH))
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    return figure.add_axes(box)


def legend_on_top(axes: Axes, columns: int = 3) -> None:
    """Puts the legend in one row above the axes and as wide as the figure, where it never covers data."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes.legend(loc="upper left", bbox_to_anchor=(0.01, 1), bbox_transform=figure.transFigure, ncols=columns)


def inline_svg(axes: Axes, name: str, description: str) -> Markup:
    """Returns the figure of `axes` as markup for an HTML page.

    Args:
        axes: drawn in `house_style`.
        name: unique in the page; becomes part of the figure's ids.
        description: read aloud instead of the figure.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', buffer.getvalue()))
    _make_inline(root, f"{name}-", used)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": description}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 (escaped by the serialiser)


def _make_inline(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    element.tag = _local(element.tag)
    element.text, element.tail = (part if part and part.strip() else None for part in (element.text, element.tail))
    attributes: dict[str, str] = {}
    for key, value in element.attrib.items():
        key = _local(key)
        if key == "style":
            attributes |= _presentation(value)
        elif key == "id":
            attributes |= {"id": prefix + value} if value in used else {}
        elif key == "transform" and value.startswith("rotate(-0 "):
            continue
        elif key in ("d", "x", "y", "transform"):
            attributes[key] = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", " ".join(value.split()))
        else:
            attributes[key] = re.sub(r"^(#|url\(#)", lambda m: m[0] + prefix, value)
    element.attrib = attributes
    for child in list(element):
        if _local(child.tag) in ("metadata", "style"):
            element.remove(child)
        else:
            _make_inline(child, prefix, used)


def _presentation(style: str) -> dict[str, str]:
    pairs = (declaration.split(":", 1) for declaration in style.split(";") if ":" in declaration)
    wanted = {key.strip(): value.strip() for key, value in pairs}
    wanted.pop("font-family", None)
    return {key: _VARIABLES.get(value, value) for key, value in wanted.items()}


def _local(name: str) -> str:
    return name.rpartition("}")[2]
