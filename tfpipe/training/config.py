"""The settings of a training run. Loads no TensorFlow."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.data_service import addresses
from tfpipe.errors import UsageError
from tfpipe.files.remote import require_local
from tfpipe.model.latent_shape import LatentShape, latent_shape, parse_latent
from tfpipe.model.presets import (
    DEFAULT,
    PRECISIONS,
    PRESETS,
    Preset,
    PriorSize,
    current_name,
    in_words,
    words_by_preset,
)
from tfpipe.model.presets import preset as preset_named
from tfpipe.settings import check, setting
from tfpipe.spec import FeatureSpec

STRATEGIES = ("auto", "single", "mirrored", "multiworker")
# The values of `prior`.
FLOW, NO_PRIOR = "flow", "none"
# Settings of the second stage, which trains the prior. They are stored with the prior.
OF_PRIOR = ("prior", "prior_steps")
# Settings of the preset that a person may override.
_OF_PRESET = ("batch_size", "epochs", "learning_rate", "schedule", "patience")
# Settings that change where and how a run computes, but not its result.
_NOT_RESULT = frozenset(
    {
        *OF_PRIOR,
        *("init", "data", "run", "cache", "data_service", "on_corrupt"),
        *("strategy", "shard_by", "jit_compile", "keep_every", "checkpoint_every_s"),
    }
)


def _latents() -> str:
    """Returns the default sizes of the latent in words; those of a sequence hold for windows of the default spec."""
    sizes = {name: latent_shape(each, None, FeatureSpec()) for name, each in PRESETS.items()}
    return words_by_preset({name: size if size.steps > 1 else size.channels for name, size in sizes.items()})


def _prior_steps() -> str:
    """Returns in words how the default number of steps of the prior follows from the size of the corpus."""
    priors = {name: each.prior for name, each in PRESETS.items() if each.prior}
    return words_by_preset(
        {
            name: f"{_passes(prior.passes)} over the windows, but {prior.least_steps} to {prior.most_steps} steps"
            for name, prior in priors.items()
        }
    )


def _passes(count: int) -> str:
    return "1 pass" if count == 1 else f"{count} passes"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run.

    The help of each field says what it does. Where a field is None, the preset's value takes its place.
    These need more words:

    Attributes:
        data: may be a URL such as `s3://bucket/data`.
        schedule: `cosine` warms up for up to 100 steps, then decays to 2 % of the peak.
        seed: initial weights, order of the examples and noise are functions of it.
        average: the moving average is what is validated, saved and exported instead of the weights.
        init: optimizer, average and prior begin anew. Once the run has begun, the other run is not read again.
        on_corrupt: `error` names the damaged shard and the place in it. `skip` leaves out the records from
            the damage to the end of the shard.
        shard_by: with `record` each worker reads from all files, and the batches are those of one worker; with
            `file` each worker reads a share of the files.

    Raises:
        UsageError: a value is not allowed; the message names the setting and the fix.
    """

    data: str = setting(help="dataset folder, local or a URL", metavar="DIR")
    run: str = setting(help="run folder, made if missing, continued if it holds an unfinished run", metavar="DIR")
    preset: str = setting(
        DEFAULT, help="networks, objective and training defaults", choices=tuple(PRESETS), parse=current_name
    )
    latent: int | str | None = setting(
        None,
        help="numbers in z: steps along time and numbers in each, such as 27x64, or one vector, such as 16 "
        f"(default {_latents()})",
        metavar="SxN",
        parse=str,
    )
    init: str = setting(
        "",
        help="begin with the best weights of this other run, of the same networks and the same feature spec",
        metavar="RUN",
    )
    batch_size: int | None = setting(
        None,
        help=f"examples in a global batch, over all workers (default {in_words('batch_size')})",
        metavar="N",
        at_least=1,
        at_most=65_536,
    )
    epochs: int | None = setting(
        None,
        help="passes over the training split; a larger number trains the run in the folder further "
        f"(default {in_words('epochs')})",
        metavar="N",
        at_least=1,
        at_most=1_000_000,
    )
    learning_rate: float | None = setting(
        None,
        help=f"Adam's peak learning rate (default {in_words('learning_rate')})",
        metavar="X",
        above=0,
        at_most=1,
    )
    schedule: str | None = setting(
        None,
        help=f"schedule of the learning rate (default {in_words('schedule')})",
        choices=("cosine", "constant"),
    )
    patience: int | None = setting(
        None,
        help="stop after N epochs without a better validation loss; 0 never stops early "
        f"(default {in_words('patience')})",
        metavar="N",
        at_least=0,
    )
    prior: str | None = setting(
        None,
        help="learn a prior over the latent sequence, which draws come from (default: flow if the latent is a "
        "sequence, else none)",
        choices=(FLOW, NO_PRIOR),
    )
    prior_steps: int | None = setting(
        None,
        help=f"training steps of the prior (default: {_prior_steps()})",
        metavar="N",
        at_least=1,
        at_most=100_000_000,
    )
    seed: int = setting(0, help="decides weights, order and noise", metavar="N", at_least=0, below=2**31)
    precision: str = setting("auto", help="number type of the layers; auto asks the hardware", choices=PRECISIONS)
    strategy: str = setting(
        "auto",
        help="devices that train together; auto: all GPUs, and the workers of TF_CONFIG",
        choices=STRATEGIES,
    )
    jit_compile: str = setting("auto", help="compile the step with XLA", choices=("auto", "on", "off"))
    average: float = setting(
        0.0,
        help="validate, save and export a moving average of the weights with this decay, such as 0.99; 0 is off",
        metavar="DECAY",
        at_least=0,
        below=1,
    )
    keep_every: int = setting(
        0,
        help="keep the checkpoint of every N-th epoch; 0 keeps only the latest and the best",
        metavar="N",
        at_least=0,
    )
    checkpoint_every_s: float = setting(
        60.0, help="seconds between checkpoints inside an epoch", metavar="S", above=0, hidden=True
    )
    on_corrupt: str = setting("error", help="what to do with damaged shards", choices=("error", "skip"))
    cache: str = setting("", help="local folder that shards are copied to and read from", metavar="DIR")
    data_service: str = setting(
        "",
        help="parse and augment in these processes: grpc://HOST:PORT, as `tfpipe data-service start` prints them",
        metavar="ADDRESS,...",
    )
    shard_by: str = setting("record", help="what several workers divide among them", choices=("record", "file"))
    augment: AugmentConfig | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "preset", current_name(self.preset))
        check(self)
        if self.latent is not None:
            shape = parse_latent(self.latent)
            object.__setattr__(self, "latent", str(shape) if shape.steps > 1 else shape.channels)
        require_local(self.run, what="the run folder")
        require_local(self.cache, what="the cache")
        require_local(self.init, what="the run to begin with (--init)")
        addresses(self.data_service)
        object.__setattr__(self, "_epochs_given", self.epochs is not None)
        if self.augment is not None and not isinstance(self.augment, AugmentConfig):
            raise UsageError(f"augment={self.augment!r} has the wrong type; use an AugmentConfig")
        for name in _OF_PRESET:
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self.chosen, name))
        self._resolve_prior()
        if self.augment is None:
            object.__setattr__(self, "augment", preset_augment(self.preset))

    @property
    def epochs_given(self) -> bool:
        """Whether `epochs` was given, and is not the preset's default. A default never makes a run longer."""
        return bool(getattr(self, "_epochs_given", False))

    @property
    def init_name(self) -> str | None:
        """The name under which the run that `init` names is recorded: its folder's, or `work/run` for a plain `run`."""
        place = Path(self.init).absolute()
        return (f"{place.parent.name}/run" if place.name == "run" else place.name) if self.init else None

    @property
    def chosen(self) -> Preset:
        """The preset that `preset` names."""
        return preset_named(self.preset)

    def latent_shape(self, spec: FeatureSpec) -> LatentShape:
        """Returns the shape of the latent on windows of a spec; see `tfpipe.model.latent_shape.latent_shape`."""
        return latent_shape(self.chosen, self.latent, spec)

    def prior_size(self) -> PriorSize:
        """Returns network and training of the prior.

        Raises:
            UsageError: the preset has none.
        """
        if self.chosen.prior is None:
            raise UsageError(f"preset {self.preset!r} has no learned prior; use --prior none, or preset sequence")
        return self.chosen.prior

    def _resolve_prior(self) -> None:
        """Decides whether there is a prior, if the caller has not, and refuses one that cannot be."""
        # A size of the latent such as 16 is one vector, whose draws come from the standard normal distribution.
        single = isinstance(self.latent, int) or self.chosen.patch is None
        if self.prior is None:
            object.__setattr__(self, "prior", NO_PRIOR if single or self.chosen.prior is None else FLOW)
        elif self.prior == FLOW and single:
            raise UsageError(
                "--prior flow needs a latent along time; use --preset sequence without --latent, a --latent such as "
                "27x64, or --prior none"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings as plain JSON values; those of `augment` are not nested."""
        values = dataclasses.asdict(self)
        augment = values.pop("augment")
        return {**values, **augment}

    def settings(self) -> dict[str, Any]:
        """Returns the settings that decide the result. A run can be continued only if they are equal."""
        return {name: value for name, value in self.to_dict().items() if name not in _NOT_RESULT}


def augment_in_words() -> str:
    """Returns the augmentation of each preset in words, as options: `--roll-s 2.5; notebook: none, tiny: none`."""
    options = {
        name: " ".join(f"--{field.replace('_', '-')} {value:g}" for field, value in each.augment.items()) or "none"
        for name, each in PRESETS.items()
    }
    return words_by_preset(options)


def preset_augment(preset: str) -> AugmentConfig:
    """Returns the augmentation that a preset trains with by default."""
    return AugmentConfig(**preset_named(preset).augment)
