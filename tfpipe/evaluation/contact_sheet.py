"""Pictures of a dataset: examples by label and variant, and windows as training sees them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.manifest import Manifest
from tfpipe.data.records import Example
from tfpipe.evaluation.plots import spectrograms
from tfpipe.features.log_mel import dequantise

# The largest picture that is still readable.
_MOST_ROWS, _MOST_COLUMNS = 12, 16
# A place in the picture: number of the label, and name of the variant.
Place = tuple[int, str]


def pick(example: Example, picked: dict[Place, Example]) -> None:
    """Keeps one example per label and variant.

    It is the one whose track and time have the lowest hash, so that all variants of a label show the same window.
    """
    place = example.label, example.variant
    if place not in picked or _rank(example) < _rank(picked[place]):
        picked[place] = example


def draw(out: Path, picked: Mapping[Place, Example], manifest: Manifest) -> str:
    """Draws `contact-sheet.png`, a row per label and a column per variant, and returns its path.

    Args:
        out: folder for the picture.
        picked: the examples, from `pick`.
        manifest: the dataset's.
    """
    labels = sorted({label for label, _ in picked})[:_MOST_ROWS]
    variants = sorted({variant for _, variant in picked})[:_MOST_COLUMNS]
    panels = [
        (f"{manifest.labels[label]}, {variant}", dequantise(picked[label, variant].mel))
        if (label, variant) in picked
        else None
        for label in labels
        for variant in variants
    ]
    path = out / "contact-sheet.png"
    spectrograms(path, panels, manifest.spec, columns=len(variants))
    return str(path)


def draw_augmented(out: Path, picked: Mapping[Place, Example], manifest: Manifest, augment: AugmentConfig) -> str:
    """Draws `augmented.png` and returns its path.

    Each row is a window: as stored, with each augmentation alone, and with all of them. Two variants of one
    window are drawn for each label, because each of them is augmented on its own.

    Args:
        out: folder for the picture.
        picked: the examples, from `pick`.
        manifest: the dataset's.
        augment: the augmentations to show; an example of each kind if all are off.
    """
    import tensorflow as tf

    from tfpipe.data import augmentation_tf

    if not augment.on:
        augment = AugmentConfig(freq_mask=16, time_mask=24, roll_s=0.5, gain_db=6.0, mixup=1.0)
    labels = sorted({label for label, _ in picked})[: _MOST_ROWS // 2]
    places = sorted(picked, key=lambda place: (place[0], place[1] != "original", place[1]))
    windows = [picked[place] for label in labels for place in [place for place in places if place[0] == label][:2]]
    batch = {
        "mel": tf.constant(np.stack([window.mel for window in windows])[..., None]),
        "ref_db": tf.constant([window.ref_db for window in windows], tf.float32),
        "label": tf.constant([window.label for window in windows], tf.int64),
        "key": tf.constant([window.key for window in windows]),
    }
    alone = {
        f"{name} {getattr(augment, name):g}": dataclasses.replace(
            AugmentConfig(masks=augment.masks), **{name: getattr(augment, name)}
        )
        for name in augment.on
    }
    columns = {"as stored": AugmentConfig(), **alone, "all": augment}
    augmented = {
        title: augmentation_tf.apply(batch, config, spec=manifest.spec, seed=0, epoch=0)["mel"].numpy()[..., 0]
        for title, config in columns.items()
    }
    panels = [
        (f"{manifest.labels[window.label]}, {window.variant}: {title}", dequantise(augmented[title][row]))
        for row, window in enumerate(windows)
        for title in columns
    ]
    path = out / "augmented.png"
    spectrograms(path, panels, manifest.spec, columns=len(columns))
    return str(path)


def _rank(example: Example) -> str:
    return hashlib.sha256(f"{example.track}/{example.start_s}".encode()).hexdigest()
