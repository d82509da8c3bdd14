import pytest

from beam_jobs.config import PreprocessConfig
from tfpipe.errors import UsageError
from tfpipe.spec import FeatureSpec


def config(**values):
    return PreprocessConfig(inputs=("in",), output="out", **values)


def names(variants):
    return tuple(variant.name for variant in variants)


def test_variants_of_each_split():
    assert names(config().train_variants) == ("chord:major", "original", "shift+12", "shift+4", "shift+7", "shift+8")
    assert names(config().variants("test")) == ("original",)
    more = config(
        semitones=(), chords=("0:4@-3",), stretch=(0.9, 1.1), gains=(-6,), noise_snr=(20,), also=("gain-6dB",)
    )
    assert names(more.train_variants) == ("chord:0:4@-3", "gain-6dB", "noise20dB", "stretch*0.9", "stretch*1.1")
    only = config(semitones=(-2.5,), chords=())
    assert names(only.variants("train")) == ("shift-2.5",)
    assert names(only.variants("validation")) == ("original",)
    assert names(config(semitones=(3, 3.0), chords=(), augment_eval=True).variants("test")) == ("original", "shift+3")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("semitones", (float("nan"),)),
        ("semitones", (99,)),
        ("chords", ("blues",)),
        ("stretch", (0.0,)),
        ("gains", (3.0,)),
        ("noise_snr", (float("inf"),)),
        ("also", ("echo",)),
        ("engine", "magic"),
        ("hop_s", 0.0),
        ("min_fill", 0.0),
        ("test_share", 0.95),
        ("shard_bytes", 1),
        ("max_skipped", 2),
        ("workers", 0),
    ],
)
def test_impossible_values_are_refused(name, value):
    with pytest.raises(UsageError, match=r"use|known are"):
        config(**{name: value})


def test_digest_follows_content_alone():
    same = [config(workers=4, overwrite=True, max_skipped=1.0), config(hop_s=5), config(semitones=(12, 8, 7, 4, 0))]
    assert {item.digest for item in same} == {config().digest}
    assert config(also=("shift+4",)).digest == config().digest
    other = [config(engine="waveform"), config(spec=FeatureSpec(hop=256)), config(semitones=(0,)), config(min_fill=1)]
    assert len({item.digest for item in [config(), *other]}) == 5
