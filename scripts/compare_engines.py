"""Compares the two engines that make variants, and prints the tables of docs/AUGMENTATION.md.

python scripts/compare_engines.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from beam_jobs import engines
from beam_jobs.corpus import discover
from beam_jobs.engines import VariantMaker, Window
from beam_jobs.variants import ENGINES, Variant
from beam_jobs.vocoder import Vocoder
from tfpipe.audio.cutting import CutConfig
from tfpipe.audio.reader import TrackReader, window_starts
from tfpipe.features.log_mel import LogMel, is_silent, log_mel
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec()
VARIANTS = ("original", "shift-5", "shift-2", "shift+2", "shift+4", "shift+7", "shift+8", "shift+12")
CHORDS = ("chord:fifth", "chord:major", "chord:minor", "chord:0:4@-3:7@-6")
MARGINS_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
SHIFTS = (-5.0, 4.0, 12.0)


def main(folder: str) -> None:
    """Prints both tables for the recordings in a folder."""
    tracks = [_track(file.path) for file in discover([folder]).files]
    _compare_engines(tracks)
    print()
    _compare_margins(tracks)


def _compare_engines(tracks: list[NDArray[np.floating]]) -> None:
    names = VARIANTS + CHORDS
    spectral, waveform = (VariantMaker(SPEC, [*map(Variant.parse, names)], engine) for engine in ENGINES)
    rows: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in names}
    for window in _windows(tracks):
        pairs = zip(names, spectral.log_mels(window), waveform.log_mels(window), strict=True)
        original = log_mel(window.read(window.start, SPEC.samples), SPEC)
        for name, ours, reference in pairs:
            row = (_correlation(ours, reference), _apart(ours, reference), _apart(original, reference))
            rows[name].append((*row, ours.ref_db - reference.ref_db))
    print(f"{len(rows['original'])} windows")
    print("| variant | correlation | mean difference, dB | unshifted against the same reference, dB | level, dB |")
    print("| --- | --- | --- | --- | --- |")
    for name, values in rows.items():
        correlation, apart, unshifted, level = np.mean(values, axis=0)
        print(f"| `{name}` | {correlation:.3f} | {apart:.2f} | {unshifted:.2f} | {level:+.2f} |")


def _compare_margins(tracks: list[NDArray[np.floating]]) -> None:
    """Uses windows inside a track only, because a window at its end has no margin on one side."""
    print("| margin, s | mean difference, dB | in the 5 frames at each edge, dB |")
    print("| --- | --- | --- |")
    found: dict[float, list[tuple[float, float]]] = {margin: [] for margin in MARGINS_S}
    for semitones in SHIFTS:
        maker = VariantMaker(SPEC, [Variant.shift(semitones)], "waveform")
        for track in tracks:
            whole = Vocoder(track, SPEC.sample_rate).copy(semitones=semitones)
            for window in _windows([track]):
                if not SPEC.sample_rate < window.start < len(track) - SPEC.samples - SPEC.sample_rate:
                    continue
                reference = log_mel(whole[window.start : window.start + SPEC.samples], SPEC)
                for engines.MARGIN_S in MARGINS_S:
                    (ours,) = maker.log_mels(window)
                    difference = np.abs(_levels(ours) - _levels(reference))
                    edges = np.concatenate([difference[:, :5], difference[:, -5:]], axis=1)
                    found[engines.MARGIN_S].append((difference.mean(), edges.mean()))
    for margin, values in found.items():
        everywhere, edges = np.mean(values, axis=0)
        print(f"| {margin:g} | {everywhere:.2f} | {edges:.2f} |")


def _track(path: str) -> NDArray[np.floating]:
    with TrackReader(path) as reader:
        return reader.read(0, int(reader.info.seconds * SPEC.sample_rate), rate=SPEC.sample_rate)


def _windows(tracks: list[NDArray[np.floating]]) -> Iterator[Window]:
    for track in tracks:
        for start_s in window_starts(
            len(track) / SPEC.sample_rate, spec=SPEC, hop_s=2.5, min_fill=CutConfig().min_fill
        ):
            window = Window.of(track, round(start_s * SPEC.sample_rate))
            if not is_silent(window.read(window.start, SPEC.samples), SPEC):
                yield window


def _levels(features: LogMel) -> NDArray[np.floating]:
    """Returns the mel in dB relative to the window's maximum."""
    return (features.mel - 1.0) * SPEC.top_db


def _apart(one: LogMel, other: LogMel) -> float:
    return float(np.abs(_levels(one) - _levels(other)).mean())


def _correlation(one: LogMel, other: LogMel) -> float:
    return float(np.corrcoef(one.mel.ravel(), other.mel.ravel())[0, 1])


if __name__ == "__main__":
    main(*sys.argv[1:])
