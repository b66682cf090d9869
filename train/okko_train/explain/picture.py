"""One picture of an explanation: photo, heat map, what the model says, and the training photos most like it.

Drawn by matplotlib without a display; fonts and colours are those of the report.
"""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from okko_models.decision import NOVELTY_LIMIT, Verdict
from okko_models.photo import PhotoError, decode_photo
from okko_train.explain.examples import printable
from okko_train.explain.overlay import KO_COLOUR, OK_COLOUR, overlay, scale_of
from okko_train.explain.wording import MISSING, most_telling, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from okko_train.explain import Explanation
    from okko_train.explain.examples import Neighbour

_INK: Final = "#1c2430"
_SOFT: Final = "#5d6776"
_LINE: Final = "#dcdad2"
_PAPER: Final = "#f7f6f2"
_DPI: Final = 120
_WIDTH: Final = 12.6
_HEIGHT: Final = 8.4
_STYLE: Final[Any] = {"font.size": 10.5, "text.color": _INK, "text.parse_math": False, "axes.linewidth": 0.8}
_NOTHING: Final = 1e-6
_OVERLAY_SIDE: Final = 760
_COLUMN: Final = 0.31
"""Width of photo and heat map, as a share of the figure."""
_TOP: Final = (0.415, 0.435)
"""Lower edge and height of the upper row, as shares of the figure."""


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


_VERDICT_COLOURS: Final = {
    Verdict.OK: _hex(OK_COLOUR),
    Verdict.KO: _hex(KO_COLOUR),
    Verdict.UNCERTAIN: "#9a6a00",
}


def draw(found: Explanation) -> bytes:
    """Returns the picture as a PNG file."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor=_PAPER)
        _title(figure, found)
        _photo(_box(figure, 0.025), found)
        _heat(figure, 0.355, found)
        _numbers(figure, 0.71, found)
        _neighbours(figure, found)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _title(figure: Figure, found: Explanation) -> None:
    verdict = found.said.verdict
    figure.text(0.025, 0.945, verdict.value, fontsize=25, weight="bold", color=_VERDICT_COLOURS[verdict], va="center")
    start = 0.025 + 0.0225 * len(verdict.value) + 0.025
    figure.text(start, 0.956, _short(found.name, 70), fontsize=13, va="center", weight="bold")
    model = f"says the model {found.manifest.name} {found.manifest.version}"
    if found.learnt:
        model += ", which has learnt from this very photo: of course it knows it"
    figure.text(start, 0.928, model, color=_SOFT, va="center")


def _box(figure: Figure, left: float) -> Axes:
    axes = figure.add_axes((left, _TOP[0], _COLUMN, _TOP[1]))
    axes.axis("off")
    axes.set_anchor("NW")
    return axes


def _heading(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=11, weight="bold", pad=7)


def _photo(axes: Axes, found: Explanation) -> None:
    height, width = found.image.shape[:2]
    axes.imshow(found.image, interpolation="bicubic")
    left, top, right, bottom = found.area
    whole = (right - left, bottom - top) == (width, height)
    _heading(axes, "The photo; the model looks at all of it" if whole else "The photo; the model looks at the frame")
    if not whole:
        for colour, line in (("black", 3.2), ("white", 1.6)):
            axes.add_patch(
                Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec=colour, lw=line)
            )


def _heat(figure: Figure, left: float, found: Explanation) -> None:
    """What the model looks at, large; all of the photo if what lies around it has a say."""
    axes = _box(figure, left)
    first, top, last, bottom = (0, 0, *found.heat.map.shape[::-1]) if found.heat.around else found.area
    heat = found.heat.map[top:bottom, first:last]
    axes.imshow(overlay(found.image[top:bottom, first:last], heat, _OVERLAY_SIDE), interpolation="antialiased")
    _heading(axes, "What spoke for OK and for KO")
    if scale_of(heat) > _NOTHING:
        ramp = np.tile(np.linspace(-1, 1, 200, dtype=np.float32), (12, 1))
        key = figure.add_axes((left, 0.378, _COLUMN * 0.94, 0.016))
        key.imshow(overlay(np.full((*ramp.shape, 3), 128, np.uint8), ramp, _OVERLAY_SIDE), aspect="auto")
        key.axis("off")
        for x, side, text in ((left, "left", "spoke for KO"), (left + _COLUMN * 0.94, "right", "spoke for OK")):
            figure.text(x, 0.371, text, ha=side, va="top", fontsize=9.5, color=_SOFT)


def _numbers(figure: Figure, left: float, found: Explanation) -> None:
    width = 0.975 - left
    rule, said = found.manifest.decision, found.said
    axes = figure.add_axes((left, _TOP[0], width, _TOP[1]))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    _heading(axes, "What it says")
    axes.text(0, 0.975, "Probability of OK", va="top")
    axes.text(1, 0.975, percent(said.probability_of_ok), va="top", ha="right", weight="bold")
    zones = (
        (0.0, rule.ko_threshold, _VERDICT_COLOURS[Verdict.KO], "KO"),
        (rule.ko_threshold, rule.ok_threshold, "#d99a00", "UNCERTAIN"),
        (rule.ok_threshold, 1.0, _VERDICT_COLOURS[Verdict.OK], "OK"),
    )
    for low, high, colour, _ in zones:
        axes.add_patch(Rectangle((low, 0.84), high - low, 0.04, color=colour, lw=0))
    for threshold in {rule.ko_threshold, rule.ok_threshold} - {0.0, 1.0}:
        axes.plot([threshold] * 2, [0.83, 0.89], color=_PAPER, lw=1.5)
    axes.plot(said.probability_of_ok, 0.902, "v", color=_INK, markersize=9, clip_on=False)
    unsure = f"UNCERTAIN from {percent(rule.ko_threshold)}, " if rule.ko_threshold < rule.ok_threshold else ""
    words = f"KO below {percent(rule.ko_threshold)}, {unsure}OK from {percent(rule.ok_threshold)}"
    axes.text(0, 0.815, textwrap.fill(words, 42), va="top", color=_SOFT, fontsize=9.5)
    height = _labels(axes, found, 0.66)
    if said.novelty:
        height -= 0.03
        axes.text(0, height, "New to the model", va="top")
        axes.text(1, height, f"{said.novelty:.2f}", va="top", ha="right", weight="bold")
        limit = (
            "beyond the limit of 1: nothing like it was learnt from"
            if said.novelty > NOVELTY_LIMIT
            else "within the limit of 1"
        )
        axes.text(0, height - 0.06, textwrap.fill(limit, 42), va="top", color=_SOFT, fontsize=9.5)
        height -= 0.17
    axes.text(0, height - 0.03, textwrap.fill(most_telling(found), 42), va="top", fontsize=9.5, color=_SOFT)


def _labels(axes: Axes, found: Explanation, height: float) -> float:
    shown = sorted(zip(found.manifest.labels, found.said.probability.tolist(), strict=True), key=lambda pair: -pair[1])
    for label, probability in shown[:4]:
        good = label in found.manifest.decision.ok_labels
        axes.text(0, height, _short(label, 26), va="top", fontsize=9.5)
        axes.text(1, height, percent(probability), va="top", ha="right", fontsize=9.5)
        axes.add_patch(Rectangle((0, height - 0.075), 1, 0.016, color=_LINE, lw=0))
        colour = _VERDICT_COLOURS[Verdict.OK if good else Verdict.KO]
        axes.add_patch(Rectangle((0, height - 0.075), probability, 0.016, color=colour, lw=0))
        height -= 0.115
    return height


def _neighbours(figure: Figure, found: Explanation) -> None:
    figure.text(0.025, 0.318, "The training photos most like it", fontsize=11, weight="bold")
    if found.examples is None:
        figure.text(0.025, 0.28, textwrap.fill(MISSING, 120), va="top", color=_SOFT)
        return
    held = len(found.examples.photos)
    of = f"{held} of the {found.examples.learnt_from}" if held < found.examples.learnt_from else f"the {held}"
    aside = f"out of {of} photos that it learnt from; 1 is how far these usually are from their nearest"
    figure.text(0.975, 0.318, aside, ha="right", color=_SOFT, fontsize=9.5)
    for index, neighbour in enumerate(found.neighbours):
        _neighbour(figure, 0.025 + index * 0.1925, neighbour, found)


def _neighbour(figure: Figure, left: float, neighbour: Neighbour, found: Explanation) -> None:
    photo = neighbour.photo
    axes = figure.add_axes((left, 0.025, 0.18, 0.27))
    axes.set(xlim=(0, 0.18 * _WIDTH), ylim=(0, 0.27 * _HEIGHT))
    axes.axis("off")
    width, height = 0.18 * _WIDTH, 0.27 * _HEIGHT
    axes.add_patch(FancyBboxPatch((0.05, 0.05), width - 0.1, height - 0.1, "round,pad=0.05", fc="white", ec=_LINE))
    label = found.manifest.labels[photo.label]
    colour = _VERDICT_COLOURS[Verdict.OK if label in found.manifest.decision.ok_labels else Verdict.KO]
    try:
        picture = axes.inset_axes((0.04, 0.27, 0.92, 0.68))
        picture.imshow(decode_photo(photo.jpeg, name=photo.name).pixels, interpolation="bicubic")
        picture.set_anchor("C")
        picture.axis("off")
    except PhotoError:
        axes.text(width / 2, height / 2, "no picture", ha="center", color=_SOFT)
    axes.text(0.12, 0.40, _short(label, 18), weight="bold", color=colour)
    axes.text(width - 0.12, 0.40, f"{neighbour.distance:.2f}", ha="right")
    axes.text(0.12, 0.16, _short(photo.name, 30, end=True), fontsize=8.5, color=_SOFT)


def _short(text: str, most: int, *, end: bool = False) -> str:
    text = printable(text)
    if len(text) <= most:
        return text
    return f"…{text[1 - most :]}" if end else f"{text[: most - 1]}…"
