"""Makes the sections of the report from a dataset and a trained model (needs TensorFlow)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from serving.client.windows import interpolate
from tfpipe.audio.level import EDGE_FADE_S, fade_edges
from tfpipe.data.manifest import SPLITS, Folder, Manifest, Skipped, load_skipped
from tfpipe.data.records import ORIGINAL_NAME
from tfpipe.data.window_sources import Recordings
from tfpipe.evaluation.draws import knows_labels
from tfpipe.evaluation.hearing import spread
from tfpipe.evaluation.windows import Sampler, Windows, sample, stream
from tfpipe.model import measure
from tfpipe.run_report.contents import Array, MappedWindow, Pair, Sound, WorstTrack
from tfpipe.run_report.window_map import layout
from tfpipe.training.trained_model import TrainedModel

# Sizes of the sections.
_PAIRS, _LABELS, _DRAWS, _VARIANTS, _BETWEEN, _CHANNELS, _WORST = 4, 4, 3, 8, 5, 4, 8
# Windows on the map, each with its sound, and the bytes of all these sounds. A second of sound takes about 5.2 kB at
# 22 050 Hz, and in the page a third more. The other sections take about 5 MB.
_MAPPED, _MAPPED_BYTES, _BYTES_A_SAMPLE = 360, 12e6, 5.2e3 / 22_050
# Training windows among which one of each label is looked for, to show its variants.
_MOST_LOOKED_AT = 2000
# Windows that are inverted to audio at a time; each takes about 10 MB.
_BATCH = 8
# How far a channel of the latent is moved; it has mean 0 and deviation 1 in the corpus.
_MOVED = 2.0


class Gatherer:
    """Makes the sections of the report from a dataset and a trained model.

    Args:
        data: dataset folder, local or a URL.
        manifest: its manifest.
        model: the trained model.
    """

    def __init__(self, data: Folder, manifest: Manifest, model: TrainedModel) -> None:
        self._data, self._manifest, self._model = data, manifest, model
        self._recordings = Recordings(data, manifest)
        self._spec = manifest.spec
        self.found_recordings = True

    def windows(self) -> dict[str, Windows]:
        """Returns windows as recorded, by split: held-out ones first, and only so many that the page stays small."""
        found, left = {}, max(2, min(_MAPPED, int(_MAPPED_BYTES / (_BYTES_A_SAMPLE * self._spec.samples))))
        for split in reversed(SPLITS):
            total = self._manifest.examples(split)
            most = left // 2 if split != "train" else left
            if not total or not most:
                continue
            # Most training examples are variants, so more of them are looked at.
            kept = sample(self._data, split, Sampler.random(total, 8 * most))
            kept = kept.take(kept.is_original)
            kept = kept.take(np.linspace(0, len(kept) - 1, min(len(kept), most)).astype(int))
            if len(kept):
                found[split] = kept
                left -= len(kept)
        return found

    def encode(self, windows: Windows) -> Array:
        """Returns the means of the posterior, `[n, d]`."""
        return np.concatenate(
            [np.asarray(self._model.encoder(batch.mels[..., None], training=False)[0]) for batch in windows.batches()]
        )

    def decode(self, z: Array) -> Array:
        """Returns the log-mels `[n, n_mels, frames]` of latents."""
        parts = [self._model.decoder(z[at : at + _BATCH], training=False) for at in range(0, len(z), _BATCH)]
        return np.asarray(np.concatenate([np.asarray(part) for part in parts])[..., 0])

    def sounds(self, titles: Sequence[str], mels: Array, ref_db: Array) -> list[Sound]:
        """Returns log-mels with the sound that the model's graph makes of them."""
        audio = [
            self._model.sound(mels[at : at + _BATCH], ref_db[at : at + _BATCH]) for at in range(0, len(mels), _BATCH)
        ]
        faded = [self._faded(one) for one in np.concatenate(audio)]
        return [Sound(title=t, mel=m, audio=a) for t, m, a in zip(titles, mels, faded, strict=True)]

    def pairs(self, windows: Windows, split: str) -> list[Pair]:
        """Returns windows of a split beside their reconstructions, as many of each label as possible."""
        chosen = spread(windows, _PAIRS)
        if not len(chosen):
            return []
        rebuilt = self.decode(self.encode(chosen))
        errors = measure.squared_error(chosen.mels, rebuilt)
        names = [self._recordings.name(key) for key in chosen.key]
        originals = self.sounds(["original"] * len(chosen), chosen.mels, chosen.ref_db)
        made = self.sounds(["reconstruction"] * len(chosen), rebuilt, chosen.ref_db)
        return [
            Pair(
                name=names[row],
                label=self._model.labels[chosen.label[row]],
                split=split,
                original=dataclasses.replace(
                    originals[row], audio=self._recorded(chosen.key[row], otherwise=originals[row].audio)
                ),
                rebuilt=made[row],
                mse=float(errors[row]),
            )
            for row in range(len(chosen))
        ]

    def variants(self) -> dict[str, list[Sound]]:
        """Returns one window of each label with its variants, such as shifted ones, by the window's name."""
        found: dict[int, Windows] = {}
        labels = min(len(self._model.labels), _LABELS)
        for windows in itertools.islice(_by_window(stream(self._data, "train")), _MOST_LOOKED_AT):
            label = int(windows.label[0])
            if label not in found and len(windows) > 1 and windows.codes.any(axis=(1, 2)).all():
                found[label] = windows
            if len(found) == labels:
                break
        rows = {}
        for label in sorted(found):
            place = {key.split("/", 2)[2]: row for row, key in enumerate(found[label].key)}
            titles = sorted(place, key=lambda name: (name != ORIGINAL_NAME, len(name), name))[:_VARIANTS]
            windows = found[label].take(np.array([place[title] for title in titles]))
            rows[self._recordings.name(windows.key[0])] = self.sounds(titles, windows.mels, windows.ref_db)
        return rows

    def draws(self, training: Windows) -> dict[str, list[Sound]]:
        """Returns draws from the prior: of each label if it knows them, else of any."""
        loudness = {index: float(np.median(training.ref_db[training.label == index])) for index in set(training.label)}
        labels = range(min(len(self._model.labels), _LABELS)) if knows_labels(self._model) else [-1]
        made = {}
        for label in labels:
            seeds = list(range(_DRAWS if label >= 0 else 2 * _DRAWS))
            ref_db = np.full(len(seeds), loudness.get(label, float(np.median(training.ref_db))))
            mels = self.decode(self._model.draw(seeds, label=label))
            name = self._model.labels[label] if label >= 0 else "any label"
            made[name] = self.sounds([f"{name}, seed {seed}" for seed in seeds], mels, ref_db)
        return made

    def between(self, windows: Windows) -> list[Sound]:
        """Returns the way from one recording to another one, of another label if there are two."""
        heard = spread(windows, 2)
        if len(heard) < 2:
            return []
        z = interpolate(*self.encode(heard), steps=_BETWEEN)
        shares = np.linspace(0.0, 1.0, _BETWEEN)
        ref_db = (1.0 - shares) * heard.ref_db[0] + shares * heard.ref_db[1]
        titles = [f"{100 * (1 - share):.0f} % / {100 * share:.0f} %" for share in shares]
        first, last = (self._recordings.name(key) for key in heard.key)
        titles[0], titles[-1] = f"only {first}", f"only {last}"
        return self.sounds(titles, self.decode(z), ref_db)

    def channels(self, windows: Windows) -> dict[str, list[Sound]]:
        """Moves the channels of the latent that change a window most; returns the sounds by the channel's name."""
        start = spread(windows, 1)
        if not len(start):
            return {}
        [z] = self.encode(start)
        steps, channels = self._model.latent_shape
        moves = np.zeros((channels, steps, channels), np.float32)
        moves[np.arange(channels), :, np.arange(channels)] = _MOVED
        moves = moves.reshape(channels, -1)
        base, up = self.decode(z[None]), self.decode(z + moves)
        strongest = np.argsort(-np.square(up - base).mean(axis=(1, 2)))[:_CHANNELS]
        name, rows = self._recordings.name(start.key[0]), {}
        for channel in strongest:
            mels = self.decode(np.stack([z - moves[channel], z, z + moves[channel]]))
            titles = [f"{_MOVED:g} lower", "as it is", f"{_MOVED:g} higher"]
            rows[f"Channel {channel} of {name}"] = self.sounds(titles, mels, np.repeat(start.ref_db, 3))
        return rows

    def mapped(self, windows: Mapping[str, Windows]) -> list[MappedWindow]:
        """Returns the windows of all splits with their places on the map."""
        z = np.concatenate([self.encode(part) for part in windows.values()])
        places = layout(z, self._model.latent_shape)
        mapped: list[MappedWindow] = []
        for split, part in windows.items():
            own = z[len(mapped) : len(mapped) + len(part)]
            errors = measure.squared_error(part.mels, self.decode(own))
            for row, key in enumerate(part.key):
                x, y = places[len(mapped)]
                recorded = self._recordings.audio(key)
                if recorded is None:
                    self.found_recordings = False
                    [recorded] = self._model.sound(part.mels[row : row + 1], part.ref_db[row : row + 1])
                mapped.append(
                    MappedWindow(
                        name=self._recordings.name(key),
                        label=int(part.label[row]),
                        split=split,
                        x=float(x),
                        y=float(y),
                        audio=self._faded(recorded),
                        mse=float(errors[row]),
                        path=self._recordings.track(key).path,
                        start_s=self._recordings.start_s(key),
                        z=own[row],
                    )
                )
        return mapped

    def skipped(self) -> list[Skipped]:
        """Returns the files that gave no track."""
        return load_skipped(self._data)

    def _recorded(self, key: str, *, otherwise: Array) -> Array:
        """Returns the recorded window, or the other audio if the recording is gone."""
        recorded = self._recordings.audio(key)
        if recorded is None:
            self.found_recordings = False
            return otherwise
        return self._faded(recorded)

    def _faded(self, audio: Array) -> Array:
        fade = round(EDGE_FADE_S * self._spec.sample_rate)
        return np.asarray(fade_edges(np.asarray(audio, np.float32), start=0, total=len(audio), fade=fade))


def worst_tracks(mapped: Sequence[MappedWindow], labels: Sequence[str]) -> list[WorstTrack]:
    """Returns the recordings with the largest mean error, the worst first: held-out ones if there are some."""
    rows = [window for window in mapped if window.split != "train"] or list(mapped)
    by_path: dict[str, list[MappedWindow]] = {}
    for window in rows:
        by_path.setdefault(window.path, []).append(window)
    tracks = [
        WorstTrack(
            path=path,
            label=labels[found[0].label],
            split=found[0].split,
            windows=len(found),
            mse=float(np.mean([window.mse for window in found])),
        )
        for path, found in by_path.items()
    ]
    return sorted(tracks, key=lambda track: -track.mse)[:_WORST]


def _by_window(batches: Iterable[Windows]) -> Iterator[Windows]:
    """Yields the examples of one window after another; in key order its variants follow each other."""
    held: Windows | None = None
    for batch in batches:
        joined = batch if held is None else _joined(held, batch)
        names = np.array([key.rpartition("/")[0] for key in joined.key])
        starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1)]
        for start, end in itertools.pairwise(starts):
            yield joined.take(np.arange(start, end))
        held = joined.take(np.arange(starts[-1], len(names)))
    if held is not None:
        yield held


def _joined(first: Windows, second: Windows) -> Windows:
    return Windows(
        codes=np.concatenate([first.codes, second.codes]),
        ref_db=np.concatenate([first.ref_db, second.ref_db]),
        label=np.concatenate([first.label, second.label]),
        key=np.concatenate([first.key, second.key]),
    )
