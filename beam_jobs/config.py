"""The settings of a preprocessing job, and the digests by which a job knows what an older one made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from beam_jobs.variants import ENGINES, ORIGINAL, Variant
from tfpipe.audio.cutting import CutConfig
from tfpipe.errors import UsageError
from tfpipe.files.storage import digest
from tfpipe.settings import check, setting
from tfpipe.spec import FeatureSpec

# Increase this when the same settings would give other examples than before.
_JOB_VERSION = 5
# Settings that say where and how the job runs, and those that the digest of the input covers.
NOT_CONTENT = {"inputs", "output", "groups", "splits_from", "scratch_gib", "max_skipped", "workers", "overwrite"}
# The digest covers the names of the resulting variants instead of these settings.
_VARIANTS = ("semitones", "chords", "stretch", "gains", "noise_snr", "also")
# Settings that manifests and digests store under an earlier name, so that older datasets still match.
_STORED_AS = {"held_out_variants": "augment_eval"}


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(CutConfig):
    """Settings of one job; the help text of each field says what it means.

    A list, or a single value, is accepted where a field is a tuple, and a
    `Path` where it is text. `spec` holds the settings of the features.

    Raises:
        UsageError: a value has the wrong type or is out of range; the message names the setting and the fix.
    """

    inputs: tuple[str, ...] = setting(
        help="folders (a file's folder is its label), files, globs, or .csv/.jsonl lists of path, label, group, split"
    )
    output: str = setting("", metavar="DIR", help="dataset folder to make, also s3:// or gs://")
    spec: FeatureSpec = field(default_factory=FeatureSpec)
    semitones: tuple[float, ...] = setting((0, 4, 7, 8, 12), help="pitch shifts, semitones; 0 is the original")
    chords: tuple[str, ...] = setting(
        ("major",), help="stacked harmonies: major, minor, sus4, ..., or notes with levels in dB such as 0:4@-3:7"
    )
    stretch: tuple[float, ...] = setting((), help="factors of length; 1.1 lasts 1.1 times as long")
    gains: tuple[float, ...] = setting((), help="gains of turned-down copies, dB, such as -6,-12")
    noise_snr: tuple[float, ...] = setting((), help="levels of white noise, dB under the signal, such as 20,10")
    also: tuple[str, ...] = setting(
        (), help="further variants by name, such as shift+4+noise20dB,chord:minor+stretch*0.9"
    )
    engine: str = setting(
        "spectral", choices=ENGINES, help="spectral (fast) or waveform (librosa's phase vocoder, the reference)"
    )
    validation_share: float = setting(0.1, at_least=0, below=1, help="share of tracks in the validation split")
    test_share: float = setting(0.1, at_least=0, below=1, help="share of tracks in the test split")
    groups: str | None = setting(
        None, metavar="FILE", help=".csv/.jsonl list of path and group; the tracks of a group stay in one split"
    )
    splits_from: str | None = setting(
        None,
        metavar="FROM",
        help="what decides the splits of tracks: a .csv/.jsonl list of path and split, or an older dataset folder",
    )
    held_out_variants: bool = setting(
        False, help="make all variants for validation and test too, not the original alone"
    )
    shard_bytes: int = setting(128 * 2**20, at_least=2**16, help="largest size of a shard, bytes (approximate)")
    scratch_gib: float = setting(
        64.0,
        at_least=0,
        metavar="GIB",
        help="largest size, GiB, of the examples that scans keep in the output folder while the job runs, so that "
        "recordings are not decoded a second time; at most half of the free space is used",
    )
    max_skipped: float = setting(
        0.5, at_least=0, at_most=1, help="fail if a larger share of the files than this cannot be used"
    )
    workers: int = setting(1, at_least=1, at_most=1024, help="processes on this machine")
    overwrite: bool = setting(False, help="replace a dataset that was made with other settings")

    def __post_init__(self) -> None:
        check(self)
        if not isinstance(self.spec, FeatureSpec):
            raise UsageError(f"spec={self.spec!r} has the wrong type; use a FeatureSpec")
        if not self.inputs:
            raise UsageError("inputs=() is empty; give a folder of recordings")
        if not self.output:
            raise UsageError("output='' is empty; give the dataset folder to make")
        if not self.train_variants:
            raise UsageError("semitones=() leaves no variant; give at least one semitone, chord or other variant")
        if self.validation_share + self.test_share >= 1:
            raise UsageError(
                f"validation_share={self.validation_share} and test_share={self.test_share} leave no training tracks; "
                "use shares with a sum below 1"
            )

    @property
    def is_remote(self) -> bool:
        """Tells whether the output is a URL such as `gs://bucket/data`."""
        return "://" in self.output

    @property
    def train_variants(self) -> tuple[Variant, ...]:
        """Variants of a training window, each once, sorted by name as in the shards.

        Raises:
            UsageError: a value is out of range, or a name is unknown.
        """
        return _by_name(
            [
                *map(Variant.shift, self.semitones),
                *map(Variant.chord, self.chords),
                *(Variant(stretch=factor) for factor in self.stretch),
                *(Variant(gain_db=gain) for gain in self.gains),
                *(Variant(noise_db=snr) for snr in self.noise_snr),
                *map(Variant.parse, self.also),
            ]
        )

    def variants(self, split: str) -> tuple[Variant, ...]:
        """Returns the variants of each window of a split, sorted by name; validation and test have the original."""
        if split == "train":
            return self.train_variants
        return _by_name([ORIGINAL, *self.train_variants]) if self.held_out_variants else (ORIGINAL,)

    @property
    def digest(self) -> str:
        """16 hex digits over every setting that changes the dataset's content."""
        content = {name: value for name, value in self.to_dict().items() if name not in NOT_CONTENT}
        splits = {"train": "train", "eval": "test"}
        variants = {name: [variant.name for variant in self.variants(split)] for name, split in splits.items()}
        for name in _VARIANTS:
            del content[name]
        content["hop_s"] = self.spec.window_s if self.hop_s is None else float(self.hop_s)
        return digest({"job_version": _JOB_VERSION, **content, "variants": variants, "spec": self.spec.fingerprint})

    @property
    def example_digest(self) -> str:
        """16 hex digits over the settings that change the example of a given key."""
        return digest({"job_version": _JOB_VERSION, "engine": self.engine, "spec": self.spec.fingerprint})

    @property
    def scan_digest(self) -> str:
        """16 hex digits over the settings that change which windows of a file are kept."""
        planned = {"hop_s": self.hop_s, "min_fill": self.min_fill, "spec": self.spec.fingerprint}
        return digest({"job_version": _JOB_VERSION, **planned})

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values, by the names under which a manifest stores them."""
        values = dataclasses.asdict(self)
        return {
            _STORED_AS.get(name, name): list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


def _by_name(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    return tuple(sorted(set(variants), key=lambda variant: variant.name))
