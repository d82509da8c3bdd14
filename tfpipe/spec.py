"""The feature spec: every number that decides what the values of a log-mel window mean. Loads no TensorFlow.

The dataset manifest, the run folder and the exported model each hold the
spec. Whoever reads one of them compares the fingerprints and refuses a mismatch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfpipe.errors import SpecError, SpecMismatch, UsageError
from tfpipe.settings import check, setting

# Turning a log-mel whose maximum is below 1 into sound raises it to 1, but by no more than this, dB of the sound.
MISSING_DB = 20.0
# Must be raised if the same field values give other features than before.
_FEATURE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Settings of the log-mel features. The defaults are the notebook's (In [8]).

    Attributes:
        sample_rate: Hz of the mono audio that features are computed from.
        window_s: length of one window, in s.
        n_fft: samples of one STFT frame (periodic Hann window of that length).
        hop: samples between frames; frames are centred, with zero padding.
        n_mels: Slaney mel bands with Slaney (area) normalisation.
        fmin: lowest band edge, in Hz.
        fmax: highest band edge, in Hz.
        power: exponent of the STFT magnitude before the filterbank. Because the default is the
            notebook's 1.0, its "dB" are half the usual ones.
        top_db: dynamic range below the window's maximum, in dB.
        silence_dbfs: a window with a lower peak (in dB of full scale) is silent: it is left out of a
            dataset, and its features are all zeros in a request.

    Raises:
        SpecError: a value is out of range; the message names it and the fix.
    """

    sample_rate: int = setting(
        22_050, help="Hz that recordings are resampled to", metavar="HZ", at_least=1000, at_most=384_000
    )
    window_s: float = setting(5.0, help="length of a window, s", metavar="S", at_least=0.01, at_most=600.0)
    n_fft: int = setting(
        2048, help="samples of an STFT frame, an even number", metavar="N", at_least=16, at_most=65_536
    )
    hop: int = setting(512, help="samples between frames, at most half of n_fft", metavar="N", at_least=1)
    n_mels: int = setting(128, help="mel bands", metavar="N", at_least=1, at_most=1024)
    fmin: float = setting(30.0, help="lowest band edge, Hz", metavar="HZ", at_least=0.0)
    fmax: float = setting(8000.0, help="highest band edge, Hz, at most half the sample rate", metavar="HZ")
    power: float = setting(
        1.0, help="exponent of the STFT magnitude, 1 (the notebook's) or 2", metavar="P", choices=(1.0, 2.0)
    )
    top_db: float = setting(80.0, help="range below a window's maximum, dB", metavar="DB", at_least=1.0, at_most=200.0)
    silence_dbfs: float = setting(
        -60.0, help="windows with a lower peak are dropped, dBFS", metavar="DB", at_least=-200.0, at_most=0.0
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            whole = isinstance(field.default, int)
            object.__setattr__(self, field.name, _number(field.name, getattr(self, field.name), whole=whole))
        try:
            check(self)
        except UsageError as error:
            raise SpecError(f"feature spec: {error}") from None
        self._check_together()
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
        """`ref_db` of a silent window, in dB, which is the lowest level that the logarithm gives."""
        return 10.0 * math.log10(self.amin)

    @property
    def silence_peak(self) -> float:
        """`silence_dbfs` as a linear peak amplitude."""
        return float(10.0 ** (self.silence_dbfs / 20.0))

    @property
    def fingerprint(self) -> str:
        """16 hex digits; they change if and only if the features of a window change."""
        canonical = json.dumps({"feature_version": _FEATURE_VERSION, **self.to_dict()}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureSpec:
        """Builds a spec from `to_dict` output.

        Raises:
            SpecError: a field is unknown or a value cannot work.
        """
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise SpecError(f"feature spec has unknown fields {unknown}: written by a newer tfpipe? upgrade tfpipe")
        return cls(**values)

    def _check_together(self) -> None:
        """Refuses values that are in range alone but not beside the other values."""
        rules = [
            (self.n_fft % 2 == 0, "n_fft", "an even number"),
            (self.hop <= self.n_fft // 2, "hop", f"at most half of n_fft ({self.n_fft // 2} samples)"),
            (self.fmin < self.fmax, "fmin", f"less than fmax ({self.fmax:g} Hz)"),
            (self.fmax <= self.sample_rate / 2, "fmax", f"at most half the sample rate ({self.sample_rate / 2:g} Hz)"),
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
        """Refuses a filterbank if one of its bands holds no FFT bin."""
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
    """Refuses two specs whose features mean different things.

    Args:
        expected: one spec.
        actual: the other spec.
        expected_from: where `expected` was found, for the message.
        actual_from: where `actual` was found, for the message.

    Raises:
        SpecMismatch: the specs differ; the message gives every differing field of both.
    """
    if expected.fingerprint == actual.fingerprint:
        return
    ours, theirs = expected.to_dict(), actual.to_dict()
    fields = [f"{name}: {ours[name]} against {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    raise SpecMismatch(
        f"feature specs differ between {expected_from} ({expected.fingerprint}) and {actual_from} "
        f"({actual.fingerprint}): " + "; ".join(fields)
    )


def _number(name: str, value: Any, *, whole: bool) -> int | float:
    """Returns `value` as an int or a float, so that 5 and 5.0 give the same fingerprint."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SpecError(f"feature spec: {name}={value!r} is not a finite number; use a number")
    if whole and value != int(value):
        raise SpecError(f"feature spec: {name}={value!r} is not a whole number; use a whole number")
    return int(value) if whole else float(value)


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
