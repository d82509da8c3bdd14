"""Settings of the augmentation in the input pipeline; `augment_tf` applies them.

Apart from it, because a run's settings are read and refused without TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfpipe.errors import UsageError
from tfpipe.spec import FeatureSpec


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to training windows on their way to the model, on top of the job's variants.

    All is off by default here; a preset may turn some on (`tfpipe.training.run_folder.preset_augment`).

    Attributes:
        freq_mask: SpecAugment (Park et al., 2019): masks of 0 to `freq_mask` - 1 mel bands; 0 off.
        time_mask: masks of 0 to `time_mask` - 1 frames; 0 off.
        masks: masks of each kind that is on; they may overlap.
        roll_s: rolls the window in time, circularly, by up to this many s either way; 0 off.
            Half a window or more is any roll at all.
        gain_db: turns the window down by up to this many dB of the mel's own scale, saturating
            at its floor; 0 off. It leaves `ref_db`: the model sees the mel alone, which is
            relative to the window's maximum, so that another `ref_db` would teach it nothing.
        mixup: alpha of the Beta(alpha, alpha) that another window's share is drawn from
            (mixup: Zhang et al., 2018); 0 off. The other window is a row of the same batch, so
            this one, unlike the rest, depends on what is in the batch and on its size.

    Raises:
        UsageError: a value is out of range; the message names it and the fix.
    """

    freq_mask: int = 0
    time_mask: int = 0
    masks: int = 1
    roll_s: float = 0.0
    gain_db: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        self._require(
            (_whole(self.freq_mask) and self.freq_mask != 1, "freq_mask", "0 (off), or 2 bands or more"),
            (_whole(self.time_mask) and self.time_mask != 1, "time_mask", "0 (off), or 2 frames or more"),
            (_whole(self.masks) and 1 <= self.masks <= 16, "masks", "1 to 16"),
            (self.roll_s >= 0.0, "roll_s", "0 (off) or more s"),
            (self.gain_db >= 0.0, "gain_db", "0 (off) or more dB"),
            (self.mixup == 0.0 or 0.01 <= self.mixup <= 100.0, "mixup", "0 (off), or 0.01 to 100"),
        )

    @property
    def on(self) -> tuple[str, ...]:
        """Names of the augmentations that are on."""
        return tuple(name for name in ("freq_mask", "time_mask", "roll_s", "gain_db", "mixup") if getattr(self, name))

    def check(self, spec: FeatureSpec) -> None:
        """Refuses what does not fit the windows of a spec.

        Raises:
            UsageError: a value is out of range; the message names it and the fix.
        """
        frame_s = spec.hop / spec.sample_rate
        self._require(
            (self.freq_mask <= spec.n_mels, "freq_mask", f"at most the {spec.n_mels} bands of a window"),
            (self.time_mask <= spec.frames, "time_mask", f"at most the {spec.frames} frames of a window"),
            (
                not self.roll_s or self.roll_s >= frame_s,
                "roll_s",
                f"0 (off), or one frame ({frame_s:.3f} s) or more",
            ),
            (self.gain_db <= spec.top_db, "gain_db", f"at most the mel's range of {spec.top_db:g} dB"),
        )

    def _require(self, *rules: tuple[bool, str, str]) -> None:
        for ok, name, allowed in rules:
            if not ok:
                raise UsageError(f"{name}={getattr(self, name)!r} is out of range; use {allowed}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
