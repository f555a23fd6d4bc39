"""Two charts of an evaluation as inline SVG; colours come from the report's style sheet."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

_WIDTH, _HEIGHT = 560, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 10, 34


def gain_chart(gain: np.ndarray, names: Sequence[str]) -> str:
    """Bars of the gain in dB of every image [n], the smallest first."""
    order = np.argsort(gain, kind="stable")
    low, high = min(0.0, float(gain.min())), max(0.0, float(gain.max()))
    high = high if high > low else low + 1
    margin = 0.04 * (high - low)
    low, high = low - margin * (low < 0), high + margin
    ticks = [tick for tick in _ticks(low, high) if low <= tick <= high]
    plot = _Plot(len(order), low, high)
    parts = [plot.grid([(t, f"{t:+g}" if t else "0") for t in ticks])]
    for place, image in enumerate(order):
        value = float(gain[image])
        tip = f"{names[image]}: {value:+.2f} dB"
        parts.append(plot.bar(place, 0.0, value, "gain" if value > 0 else "loss", tip))
    parts.append(plot.line(0.0, "axis"))
    parts.append(plot.caption("images, smallest gain first", "PSNR gain (dB)"))
    summary = (
        f"PSNR gain of {len(gain)} images from {gain.min():+.2f} to {gain.max():+.2f} dB, "
        f"mean {gain.mean():+.2f} dB"
    )
    return plot.svg(parts, summary)


def usage_chart(counts: Mapping[str, np.ndarray]) -> str:
    """Share of every code [K], the commonest first; the second of two counts as a line.

    Codes are ordered by the teacher's use where there is a teacher.
    """
    first = "teacher" if "teacher" in counts else next(iter(counts))
    shares = {whose: c / max(c.sum(), 1) for whose, c in counts.items()}
    order = np.argsort(-shares[first], kind="stable")
    ticks = _ticks(0.0, 100 * max(float(s.max()) for s in shares.values()))
    plot = _Plot(len(order), 0.0, ticks[-1])
    parts = [plot.grid([(t, f"{t:g} %") for t in ticks])]
    for place, code in enumerate(order):
        share = 100 * float(shares[first][code])
        if share:
            parts.append(plot.bar(place, 0.0, share, "bar", f"code {code}: {share:.2f} %"))
    for whose in (w for w in shares if w != first):
        parts.append(plot.steps(100 * shares[whose][order]))
    parts.append(plot.line(0.0, "axis"))
    parts.append(plot.line(100 / len(order), "even"))
    parts.append(plot.caption(f"{len(order)} codes, commonest first", "share of all codes"))
    alive = int((counts[first] > 0).sum())
    return plot.svg(parts, f"Codebook use of the {first}: {alive} of {len(order)} codes occur")


class _Plot:
    """Places `slots` bars side by side over a vertical axis from low to high."""

    def __init__(self, slots: int, low: float, high: float):
        self._low, self._span = low, high - low
        self._slot = (_WIDTH - _LEFT - _RIGHT) / slots

    def _x(self, place: int) -> float:
        return _LEFT + place * self._slot

    def _y(self, value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - self._low) / self._span)

    def bar(self, place: int, start: float, end: float, kind: str, tip: str) -> str:
        top, bottom = sorted((self._y(start), self._y(end)))
        # A gap between bars as long as they are wide enough to spare it.
        width = max(self._slot - 1, 0.8 * self._slot) if self._slot > 2 else self._slot
        return (
            f'<rect class="{kind}" x="{self._x(place):.2f}" y="{top:.2f}" width="{width:.2f}" '
            f'height="{max(bottom - top, 0.5):.2f}"><title>{html.escape(tip)}</title></rect>'
        )

    def steps(self, values: np.ndarray) -> str:
        points = " ".join(
            f"{self._x(place + side):.2f},{self._y(float(value)):.2f}"
            for place, value in enumerate(values)
            for side in (0, 1)
        )
        return f'<polyline class="steps" points="{points}"/>'

    def line(self, value: float, kind: str) -> str:
        y = f"{self._y(value):.2f}"
        return f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'

    def grid(self, ticks: Sequence[tuple[float, str]]) -> str:
        return "".join(
            self.line(value, "grid")
            + f'<text x="{_LEFT - 6}" y="{self._y(value) + 4:.2f}" text-anchor="end">{text}</text>'
            for value, text in ticks
        )

    def caption(self, below: str, left: str) -> str:
        middle, bottom = (_WIDTH + _LEFT - _RIGHT) / 2, _HEIGHT - 10
        side = (_HEIGHT - _BOTTOM + _TOP) / 2
        return (
            f'<text x="{middle}" y="{bottom}" text-anchor="middle">{below}</text>'
            f'<text transform="translate(11 {side}) rotate(-90)" text-anchor="middle">{left}</text>'
        )

    def svg(self, parts: Sequence[str], summary: str) -> str:
        text = html.escape(summary)
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text}">'
            f"{''.join(parts)}</svg>"
        )


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers that enclose low..high."""
    span = max(high - low, 1e-9)
    base = 10.0 ** math.floor(math.log10(span / 4))
    step = next(base * m for m in (1, 2, 5, 10) if span / (base * m) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]
