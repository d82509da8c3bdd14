"""Curves of a training as SVG, in the colours of the page. Does not load TensorFlow."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH, _HEIGHT = 400, 230
_LEFT, _TOP, _PLOT_WIDTH, _PLOT_HEIGHT = 62, 10, 328, 176


def curves(rows: Sequence[Mapping[str, Any]], lines: Mapping[str, str], *, x: str, title: str) -> str:
    """Returns a figure with one curve for each name, or an empty text if there are not two rows to join.

    Args:
        rows: such as the rows of `metrics.jsonl`; those that lack a value, or whose value is no finite number, are
            left out of that curve.
        lines: the name to show, by the name in the rows.
        x: name of the horizontal axis in the rows.
        title: of the figure.
    """
    points = {
        label: [(float(row[x]), float(row[name])) for row in rows if math.isfinite(float(row.get(name, math.nan)))]
        for name, label in lines.items()
    }
    points = {label: found for label, found in points.items() if len(found) > 1}
    if not points:
        return ""
    every = [point for found in points.values() for point in found]
    left, right = min(at for at, _ in every), max(at for at, _ in every)
    low, high = min(value for _, value in every), max(value for _, value in every)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)

    def place(at: float, value: float) -> tuple[float, float]:
        return (
            _LEFT + _PLOT_WIDTH * (at - left) / (right - left),
            _TOP + _PLOT_HEIGHT * (high - value) / (high - low),
        )

    bottom = _TOP + _PLOT_HEIGHT
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{_LEFT + _PLOT_WIDTH}"/>']
    for share in (0.0, 0.5, 1.0):
        value, at = low + share * (high - low), left + share * (right - left)
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{place(left, value)[1] + 4:.1f}">{value:.3g}</text>')
        parts.append(f'<text x="{place(at, low)[0]:.1f}" y="{bottom + 18}">{at:.0f}</text>')
    parts.append(f'<text x="{_LEFT + _PLOT_WIDTH / 2}" y="{_HEIGHT - 6}">{html.escape(x)}</text>')
    legend = []
    for number, (label, found) in enumerate(points.items(), start=1):
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in (place(*point) for point in found))
        parts.append(f'<polyline class="line{number}" points="{path}"/>')
        legend.append(f'<span class="line{number}">{html.escape(label)}, at last {found[-1][1]:.3g}</span>')
    about = html.escape(
        f"{title}: " + "; ".join(f"{label} from {f[0][1]:.3g} to {f[-1][1]:.3g}" for label, f in points.items())
    )
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg class="curves" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'role="img" aria-label="{about}">{"".join(parts)}</svg><p class="legend">{"".join(legend)}</p></figure>'
    )
