"""Spectrograms inside a page: SVG with axes in Hz and s around a small PNG. Does not load TensorFlow.

The axes are text of the page, so they are sharp at every size and follow its colours. A picture takes about 15 kB.
"""

from __future__ import annotations

import base64
import functools
import html
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.evaluation.bands import band_centres
from tfpipe.spec import FeatureSpec

# Marks of the frequency axis, Hz: octaves.
_MARKED_HZ = tuple(250.0 * 2**octave for octave in range(7))
# Size of the picture and place of its plot, in units of the SVG.
_WIDTH, _HEIGHT = 400, 230
_LEFT, _TOP, _PLOT_WIDTH, _PLOT_HEIGHT = 56, 6, 338, 184
# Differences beyond this, in the features' dB, have the deepest colour.
DIFFERENCE_DB = 20.0


def spectrogram(mel: NDArray[np.floating[Any]], spec: FeatureSpec, *, about: str) -> str:
    """Returns a log-mel as an SVG element: louder is brighter.

    Args:
        mel: `[n_mels, frames]` in [0, 1].
        spec: gives the axes.
        about: what it shows, for people who do not see it.
    """
    return _framed(_png(np.asarray(mel), "magma"), spec, frames=mel.shape[1], about=about)


def difference(mel: NDArray[np.floating[Any]], rebuilt: NDArray[np.floating[Any]], spec: FeatureSpec) -> str:
    """Returns what a reconstruction adds (red) and lacks (blue) as an SVG element.

    Args:
        mel: the original, `[n_mels, frames]` in [0, 1].
        rebuilt: of the same shape.
        spec: gives the axes.
    """
    change_db = (np.asarray(rebuilt) - mel) * spec.top_db
    shade = 0.5 + 0.5 * np.clip(change_db / DIFFERENCE_DB, -1.0, 1.0)
    about = f"difference of reconstruction and original: {np.abs(change_db).mean():.1f} dB in the mean"
    return _framed(_png(shade, "RdBu_r"), spec, frames=mel.shape[1], about=about)


def scale(colours: str, low: str, high: str) -> str:
    """Returns a bar that explains colours, with the values at its ends, as an HTML element.

    Args:
        colours: `magma` or `RdBu_r`.
        low: text at the left end.
        high: text at the right end.
    """
    bar = _png(np.linspace(0.0, 1.0, 128)[np.newaxis], colours)
    return (
        f'<p class="scale"><span>{html.escape(low)}</span><img src="{bar}" alt="colour scale" width="128" height="12">'
        f"<span>{html.escape(high)}</span></p>"
    )


def _png(values: NDArray[np.floating[Any]], colours: str) -> str:
    """Returns values in [0, 1] as the data URI of a PNG, the first row at the bottom."""
    from PIL import Image

    codes = np.clip(np.rint(values[::-1] * 255.0), 0, 255).astype(np.uint8)
    image = Image.fromarray(codes, mode="L").convert("P")
    image.putpalette(_palette(colours))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@functools.cache
def _palette(colours: str) -> list[int]:
    """Returns 256 colours as red, green and blue, one after another."""
    from matplotlib import colormaps

    shades: NDArray[np.float64] = colormaps[colours](np.linspace(0.0, 1.0, 256))[:, :3]
    return [int(shade) for shade in (shades * 255.0).round().ravel()]


def _framed(png: str, spec: FeatureSpec, *, frames: int, about: str) -> str:
    """Returns the SVG of a picture with its axes."""
    bottom = _TOP + _PLOT_HEIGHT
    seconds = frames * spec.hop / spec.sample_rate
    parts = [
        f'<image href="{png}" x="{_LEFT}" y="{_TOP}" width="{_PLOT_WIDTH}" height="{_PLOT_HEIGHT}" '
        'preserveAspectRatio="none"/>'
    ]
    for at in _time_marks(seconds):
        x = _LEFT + _PLOT_WIDTH * at / seconds
        parts.append(f'<path d="M{x:.1f} {bottom}v4"/><text x="{x:.1f}" y="{bottom + 18}">{at:g}</text>')
    centres = band_centres(spec)
    for hz in _MARKED_HZ:
        if centres[0] <= hz <= centres[-1]:
            band = float(np.interp(hz, centres, np.arange(len(centres)))) + 0.5
            y = bottom - _PLOT_HEIGHT * band / len(centres)
            parts.append(f'<path d="M{_LEFT} {y:.1f}h-4"/>')
            parts.append(f'<text class="y" x="{_LEFT - 7}" y="{y + 4:.1f}">{hz:g}</text>')
    parts.append(f'<text x="{_LEFT + _PLOT_WIDTH / 2}" y="{_HEIGHT - 4}">time in s</text>')
    parts.append(f'<text transform="translate(11 {_TOP + _PLOT_HEIGHT / 2}) rotate(-90)">frequency in Hz</text>')
    return (
        f'<svg class="spectrogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(about)}">'
        + "".join(parts)
        + "</svg>"
    )


def _time_marks(seconds: float) -> list[float]:
    """Returns about five times to mark, in s, from 0."""
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60) if seconds / step <= 6)
    return [float(round(number * step, 3)) for number in range(int(seconds / step) + 1)]
