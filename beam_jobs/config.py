"""What a preprocessing job is asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from beam_jobs.variants import ENGINES, ORIGINAL, Variant
from tfpipe.errors import UsageError
from tfpipe.files.storage import digest
from tfpipe.spec import FeatureSpec

# Raised when the same settings would give other examples.
_JOB_VERSION = 4
# Where and how the job runs, and what the digest of the input covers.
_NOT_CONTENT = {"inputs", "output", "groups", "splits_from", "max_skipped", "workers", "overwrite"}


# The names of what they give stand for them.
_VARIANTS = ("semitones", "chords", "stretch", "gains", "noise_snr", "also")


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Settings of one job.

    Attributes:
        inputs: folders (read recursively), files, globs, or `.csv`/`.jsonl` lists.
        output: dataset folder, local or a URL that Beam's FileSystems can write.
        spec: the features.
        semitones: pitch shifts; 0 stands for the original.
        chords: names from `augment.CHORDS`, or notes such as `0:4@-3:7`.
        stretch: factors of length; 1.1 lasts 1.1 times as long.
        gains: dB, at most 0.
        noise_snr: white noise that many dB under the signal.
        also: further variants by name, such as `shift+4+noise20dB`.
        engine: `spectral` or `waveform`.
        hop_s: s between window starts; None is the window length (no overlap).
        min_fill: share of a window that a track's left-over end, or a short track, must fill to be kept.
        validation_share: share of the tracks in the validation split.
        test_share: share of the tracks in the test split.
        groups: `.csv` or `.jsonl` file of path and group; the tracks of a group lie in one split.
        splits_from: older dataset folder whose tracks keep their splits.
        augment_eval: make all variants for validation and test too, instead of the original alone.
        shard_bytes: largest size of a shard, about.
        max_skipped: the job fails when more than this share of the files is skipped.
        workers: processes of the local runner.
        overwrite: replace a dataset that was made with other settings.

    Raises:
        UsageError: a value is out of range; the message names it and the fix.
    """

    inputs: tuple[str, ...]
    output: str
    spec: FeatureSpec = field(default_factory=FeatureSpec)
    semitones: tuple[float, ...] = (0, 4, 7, 8, 12)
    chords: tuple[str, ...] = ("major",)
    stretch: tuple[float, ...] = ()
    gains: tuple[float, ...] = ()
    noise_snr: tuple[float, ...] = ()
    also: tuple[str, ...] = ()
    engine: str = "spectral"
    hop_s: float | None = None
    min_fill: float = 0.5
    validation_share: float = 0.1
    test_share: float = 0.1
    groups: str | None = None
    splits_from: str | None = None
    augment_eval: bool = False
    shard_bytes: int = 128 * 2**20
    max_skipped: float = 0.5
    workers: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        rules = [
            (bool(self.inputs), "inputs", "at least one folder, file or glob"),
            (bool(self.output), "output", "a folder"),
            (
                bool(self.train_variants),
                "semitones",
                "at least one semitone, chord or other variant; 0 is the original",
            ),
            (self.engine in ENGINES, "engine", " or ".join(ENGINES)),
            (self.hop_s is None or 0.01 <= self.hop_s <= 3600, "hop_s", "0.01 to 3600 s"),
            (0 < self.min_fill <= 1, "min_fill", "above 0 and at most 1"),
            (0 <= self.validation_share < 1, "validation_share", "0 to below 1"),
            (0 <= self.test_share < 1, "test_share", "0 to below 1"),
            (self.validation_share + self.test_share < 1, "test_share", "shares that leave something for training"),
            (self.shard_bytes >= 2**16, "shard_bytes", "at least 65536"),
            (0 <= self.max_skipped <= 1, "max_skipped", "0 to 1"),
            (1 <= self.workers <= 1024, "workers", "1 to 1024"),
        ]
        for ok, name, allowed in rules:
            if not ok:
                raise UsageError(f"preprocess: {name}={getattr(self, name)!r} cannot work; use {allowed}")

    @property
    def is_remote(self) -> bool:
        """Tells whether the output is a URL such as `gs://bucket/data`."""
        return "://" in self.output

    @property
    def train_variants(self) -> tuple[str, ...]:
        """Names of the variants of a training window, sorted as in the shards.

        Raises:
            UsageError: one of them cannot be made.
        """
        variants = [
            *map(Variant.shift, self.semitones),
            *map(Variant.chord, self.chords),
            *(Variant(stretch=factor) for factor in self.stretch),
            *(Variant(gain_db=gain) for gain in self.gains),
            *(Variant(noise_db=snr) for snr in self.noise_snr),
            *map(Variant.parse, self.also),
        ]
        return tuple(sorted({variant.name for variant in variants}))

    def variants(self, split: str) -> tuple[str, ...]:
        """Names of the variants made of each window of a split; evaluation always has the original."""
        if split == "train":
            return self.train_variants
        return tuple(sorted({ORIGINAL, *self.train_variants})) if self.augment_eval else (ORIGINAL,)

    @property
    def digest(self) -> str:
        """16 hex digits over every setting that changes the dataset's content."""
        content = {name: value for name, value in self.to_dict().items() if name not in _NOT_CONTENT}
        variants = {"train": self.variants("train"), "eval": self.variants("test")}
        for name in _VARIANTS:
            del content[name]
        content["hop_s"] = self.spec.window_s if self.hop_s is None else float(self.hop_s)
        return digest({"job_version": _JOB_VERSION, **content, "variants": variants, "spec": self.spec.fingerprint})

    @property
    def example_digest(self) -> str:
        """16 hex digits over the settings that decide what an example of a given key holds."""
        return digest({"job_version": _JOB_VERSION, "engine": self.engine, "spec": self.spec.fingerprint})

    @property
    def scan_digest(self) -> str:
        """16 hex digits over the settings that decide which windows of a file are kept."""
        planned = {"hop_s": self.hop_s, "min_fill": self.min_fill, "spec": self.spec.fingerprint}
        return digest({"job_version": _JOB_VERSION, **planned})

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
