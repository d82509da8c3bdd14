"""Draws spectrograms side by side, as in the notebook (In [9] and its reconstruction plots)."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.files.storage import write_bytes
from tfpipe.spec import FeatureSpec

# Frequencies that are marked, Hz: octaves. Below 250 Hz their names would overlap.
_MARKED_HZ = tuple(250.0 * 2**octave for octave in range(8))


def spectrograms(
    path: str | Path,
    panels: Sequence[tuple[str, NDArray[np.floating[Any]]] | None],
    spec: FeatureSpec,
    *,
    columns: int | None = None,
) -> None:
    """Writes log-mel windows as one PNG: time in s to the right, frequency in Hz upwards, level in dB as colour.

    Args:
        path: the PNG to write.
        panels: a title and a mel `[n_mels, frames]` in [0, 1] for each panel, or None to leave
            its place empty; at least one is not None.
        spec: gives the axes and the range in dB.
        columns: panels in a row; None is at most four.

    Raises:
        TfpipeError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), columns or 4)
    rows = -(-len(panels) // columns)
    # Without pyplot, which keeps global state and is not safe in every thread.
    figure = Figure(figsize=(4.2 * columns + 1.2, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    image: Any = None
    for axes, panel in itertools.zip_longest(grid.flat, panels):
        if panel is None:
            axes.set_visible(False)
            continue
        title, mel = panel
        image = _draw(axes, mel, spec)
        _mark(axes, spec)
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="time (s)", ylabel="frequency (Hz)")
        axes.label_outer()
    # The last panel of each column has the times, also if places below it are empty.
    for column in grid.T:
        lowest = [axes for axes in column if axes.get_visible()][-1:]
        for axes in lowest:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("time (s)")
    scale = figure.colorbar(image, ax=[axes for axes in grid.flat if axes.get_visible()], format="%.0f")
    scale.set_label(f"mel {'magnitude' if spec.power == 1.0 else 'power'} in dB, 0 at the maximum")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())


def _draw(axes: Any, mel: NDArray[np.floating[Any]], spec: FeatureSpec) -> Any:
    """Draws a log-mel and returns the image, which the colour scale describes."""
    from librosa.display import specshow

    return specshow(
        (np.asarray(mel) - 1.0) * spec.top_db,
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop,
        fmin=spec.fmin,
        fmax=spec.fmax,
        x_axis="time",
        y_axis="mel",
        vmin=-spec.top_db,
        vmax=0.0,
        cmap="magma",
        ax=axes,
    )


def _mark(axes: Any, spec: FeatureSpec) -> None:
    """Marks whole seconds, or parts of them if the window is short, and octaves."""
    from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    marked = [hz for hz in _MARKED_HZ if spec.fmin <= hz <= spec.fmax]
    axes.set_yticks(marked, [f"{hz:.0f}" for hz in marked])
    axes.yaxis.set_minor_locator(NullLocator())
