"""Settings of the augmentation in the input pipeline; `tfpipe.data.augmentation_tf` applies them.

They have a module of their own so that a run's settings can be read and checked
without loading TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfpipe.errors import UsageError
from tfpipe.settings import check, setting
from tfpipe.spec import FeatureSpec


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to training windows on their way to the model, in addition to the dataset's variants.

    Everything is off by default here; a preset may turn some of it on
    (`tfpipe.training.config.preset_augment`). The help of each field says what
    it does; these need more words:

    Attributes:
        freq_mask: masks from SpecAugment (Park et al., 2019), each 0 to `freq_mask` - 1 mel bands high.
        time_mask: likewise, each 0 to `time_mask` - 1 frames long.
        roll_s: the roll is circular and goes either way. Half a window or more allows every roll.
        gain_db: the dB are those of the mel's scale; codes that would fall below its floor stay at
            the floor. `ref_db` is not changed: the model sees the mel alone, which is relative to
            the window's maximum, so another `ref_db` would teach it nothing.
        mixup: Zhang et al., 2018. The other window is a row of the same batch, so the result
            depends on what is in the batch and on its size. Nothing else here does.

    Raises:
        UsageError: a value is out of range; the message names the setting and the fix.
    """

    freq_mask: int = setting(0, help="mask fewer than N mel bands, such as 16; 0 is off", metavar="N", at_least=0)
    time_mask: int = setting(0, help="mask fewer than N frames, such as 24; 0 is off", metavar="N", at_least=0)
    masks: int = setting(1, help="number of masks of each kind that is on", metavar="N", at_least=1, at_most=16)
    roll_s: float = setting(
        0.0, help="roll the window in time by up to S seconds, such as 0.5; 0 is off", metavar="S", at_least=0
    )
    gain_db: float = setting(
        0.0, help="turn the window down by up to DB dB, such as 6; 0 is off", metavar="DB", at_least=0
    )
    mixup: float = setting(
        0.0,
        help="mix with another window, whose share is drawn from Beta(A, A), such as 0.2; 0 is off",
        metavar="A",
        at_least=0,
        at_most=100,
    )

    def __post_init__(self) -> None:
        check(self)
        self._require(self.freq_mask != 1, "freq_mask", "0 (off), or 2 bands or more")
        self._require(self.time_mask != 1, "time_mask", "0 (off), or 2 frames or more")
        self._require(self.mixup == 0.0 or self.mixup >= 0.01, "mixup", "0 (off), or 0.01 to 100")

    @property
    def on(self) -> tuple[str, ...]:
        """Names of the augmentations that are on."""
        return tuple(name for name in ("freq_mask", "time_mask", "roll_s", "gain_db", "mixup") if getattr(self, name))

    def check(self, spec: FeatureSpec) -> None:
        """Checks that the settings fit the windows of a spec.

        Raises:
            UsageError: a value is out of range; the message names the setting and the fix.
        """
        bands, frames, frame_s = spec.n_mels, spec.frames, spec.hop / spec.sample_rate
        self._require(self.freq_mask <= bands, "freq_mask", f"at most the {bands} bands of a window")
        self._require(self.time_mask <= frames, "time_mask", f"at most the {frames} frames of a window")
        self._require(
            not self.roll_s or self.roll_s >= frame_s, "roll_s", f"0 (off), or one frame ({frame_s:.3f} s) or more"
        )
        self._require(self.gain_db <= spec.top_db, "gain_db", f"at most the mel's range of {spec.top_db:g} dB")

    def _require(self, fits: bool, name: str, allowed: str) -> None:
        if not fits:
            raise UsageError(f"{name}={getattr(self, name)!r} is out of range; use {allowed}")
