"""The feature spec: every number that fixes what one log-mel window means.

It stands in the dataset manifest, the run folder and the exported model; each
reader compares fingerprints and refuses a mismatch. Loads no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfpipe.errors import SpecError, SpecMismatch

# Raised when the same field values would give other features.
_FEATURE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Settings of the log-mel features. Defaults are the notebook's (In [8]).

    Attributes:
        sample_rate: Hz of the mono audio that features are computed from.
        window_s: length of one window, in s.
        n_fft: samples of one STFT frame (periodic Hann window of that length).
        hop: samples between frames; frames are centred, with zero padding.
        n_mels: Slaney mel bands with Slaney (area) normalisation.
        fmin: lowest band edge, in Hz.
        fmax: highest band edge, in Hz.
        power: exponent of the STFT magnitude before the filterbank. The
            notebook's 1.0 is kept, so its "dB" are half the usual ones.
        top_db: dynamic range below the window's maximum, in dB.
        silence_dbfs: a window whose peak is under this level (dB re full scale)
            is silence: dropped from a dataset, all zeros in a request.

    Raises:
        SpecError: a value is out of range; the message names it and the fix.
    """

    sample_rate: int = 22_050
    window_s: float = 5.0
    n_fft: int = 2048
    hop: int = 512
    n_mels: int = 128
    fmin: float = 30.0
    fmax: float = 8000.0
    power: float = 1.0
    top_db: float = 80.0
    silence_dbfs: float = -60.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _number(field.name, getattr(self, field.name)))
        self._check_ranges()
        self._check_filters()

    @property
    def samples(self) -> int:
        """Samples in one window."""
        return round(self.window_s * self.sample_rate)

    @property
    def frames(self) -> int:
        """STFT frames in one window (centred frames)."""
        return 1 + self.samples // self.hop

    @property
    def bins(self) -> int:
        """STFT frequency bins."""
        return 1 + self.n_fft // 2

    @property
    def mel_shape(self) -> tuple[int, int]:
        """Shape of one log-mel window, `[n_mels, frames]`."""
        return self.n_mels, self.frames

    @property
    def amin(self) -> float:
        """Smallest mel value that the logarithm sees (librosa's `power_to_db` default)."""
        return 1e-10

    @property
    def ref_db_floor(self) -> float:
        """`ref_db` of silence, in dB: the lowest finite reference level."""
        return 10.0 * math.log10(self.amin)

    @property
    def silence_peak(self) -> float:
        """`silence_dbfs` as a linear peak amplitude."""
        return 10.0 ** (self.silence_dbfs / 20.0)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever the meaning of a window changes."""
        canonical = json.dumps({"feature_version": _FEATURE_VERSION, **self.to_dict()}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureSpec:
        """Builds a spec from `to_dict` output.

        Raises:
            SpecError: unknown field or bad value.
        """
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise SpecError(f"feature spec has unknown fields {unknown}: written by a newer tfpipe? upgrade tfpipe")
        return cls(**values)

    def _check_ranges(self) -> None:
        rules = [
            (1000 <= self.sample_rate <= 384_000, "sample_rate", "1000 to 384000 Hz"),
            (0.01 <= self.window_s <= 600.0, "window_s", "0.01 to 600 s"),
            (16 <= self.n_fft <= 65_536 and self.n_fft % 2 == 0, "n_fft", "an even number from 16 to 65536"),
            (
                1 <= self.hop <= self.n_fft // 2,
                "hop",
                f"1 to half of n_fft ({self.n_fft // 2} samples)",
            ),
            (1 <= self.n_mels <= 1024, "n_mels", "1 to 1024"),
            (0.0 <= self.fmin < self.fmax, "fmin", "at least 0 Hz and below fmax"),
            (self.fmax <= self.sample_rate / 2, "fmax", f"at most half the sample rate ({self.sample_rate / 2:g} Hz)"),
            (self.power in (1.0, 2.0), "power", "1.0 (magnitude, the notebook's) or 2.0"),
            (1.0 <= self.top_db <= 200.0, "top_db", "1 to 200 dB"),
            (-200.0 <= self.silence_dbfs <= 0.0, "silence_dbfs", "-200 to 0 dBFS"),
        ]
        for ok, name, allowed in rules:
            if not ok:
                raise SpecError(f"feature spec: {name}={getattr(self, name)!r} is out of range; use {allowed}")
        if self.samples < self.n_fft:
            raise SpecError(
                f"feature spec: a window of {self.samples} samples is shorter than n_fft={self.n_fft}; "
                f"use window_s of at least {self.n_fft / self.sample_rate:.3f} s or a smaller n_fft"
            )

    def _check_filters(self) -> None:
        """Refuses filterbanks with a band that no FFT bin falls into."""
        low, high = _hz_to_mel(self.fmin), _hz_to_mel(self.fmax)
        edges = [_mel_to_hz(low + (high - low) * i / (self.n_mels + 1)) for i in range(self.n_mels + 2)]
        width = self.sample_rate / self.n_fft
        for band in range(self.n_mels):
            first_inside = math.floor(edges[band] / width) + 1
            if first_inside * width >= edges[band + 2]:
                raise SpecError(
                    f"feature spec: mel band {band} ({edges[band]:.1f}-{edges[band + 2]:.1f} Hz) holds no FFT bin; "
                    f"use fewer n_mels (now {self.n_mels}) or a larger n_fft (now {self.n_fft})"
                )


def require_same_spec(expected: FeatureSpec, actual: FeatureSpec, *, expected_from: str, actual_from: str) -> None:
    """Refuses two parts whose features mean different things.

    Raises:
        SpecMismatch: with every differing field of both specs.
    """
    if expected.fingerprint == actual.fingerprint:
        return
    ours, theirs = expected.to_dict(), actual.to_dict()
    fields = [f"{name}: {ours[name]} against {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    raise SpecMismatch(
        f"feature specs differ between {expected_from} ({expected.fingerprint}) and {actual_from} "
        f"({actual.fingerprint}): " + "; ".join(fields)
    )


def _number(name: str, value: Any) -> int | float:
    """Coerces to the field's type, so that 5 and 5.0 have one fingerprint."""
    integral = name in {"sample_rate", "n_fft", "hop", "n_mels"}
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SpecError(f"feature spec: {name}={value!r} is not a finite number")
    if integral and value != int(value):
        raise SpecError(f"feature spec: {name}={value!r} must be a whole number")
    return int(value) if integral else float(value)


# Slaney's mel scale: linear below 1 kHz, logarithmic above (Auditory Toolbox, 1998).
_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return _BREAK_HZ / _LINEAR_HZ_PER_MEL + math.log(hz / _BREAK_HZ) / _LOG_STEP


def _mel_to_hz(mel: float) -> float:
    break_mel = _BREAK_HZ / _LINEAR_HZ_PER_MEL
    if mel < break_mel:
        return mel * _LINEAR_HZ_PER_MEL
    return _BREAK_HZ * math.exp(_LOG_STEP * (mel - break_mel))
