from pathlib import Path
from typing import Any

import pytest

from beam_jobs.config import PreprocessConfig
from tfpipe.errors import UsageError
from tfpipe.spec import FeatureSpec

DIGESTS = [
    ("2f3122a2f21d74a8", "e7ebc2764b7c4294", "70c97e6f634b01a7"),
    ("f4ff59fb11e63574", "e7ebc2764b7c4294", "4a27c0d2346624b8"),
]


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
    assert names(config(semitones=(3, 3.0), chords=(), held_out_variants=True).variants("test")) == (
        "original",
        "shift+3",
    )


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
        ("scratch_gib", -1.0),
        ("max_skipped", 2),
        ("workers", 0),
    ],
)
def test_impossible_values_are_refused(name, value):
    with pytest.raises(UsageError, match=r"use|known are"):
        config(**{name: value})


def test_a_single_value_or_a_path_is_accepted_where_a_list_or_text_is_meant():
    loose: dict[str, Any] = {"inputs": Path("in"), "output": Path("out"), "semitones": [0, 4], "chords": "minor"}
    other: dict[str, Any] = {"inputs": "in", "output": "out", "semitones": (0, 4), "chords": ["minor"]}
    plain = PreprocessConfig(inputs=("in",), output="out", semitones=(0, 4), chords=("minor",))
    given = PreprocessConfig(**loose)
    assert given == plain == PreprocessConfig(**other)
    assert given.to_dict() == plain.to_dict()


@pytest.mark.parametrize(
    ("name", "value"),
    [("semitones", "4"), ("semitones", (True,)), ("inputs", 3), ("workers", 1.5), ("hop_s", "1"), ("spec", {})],
)
def test_a_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=f"^{name}=.* wrong type"):
        PreprocessConfig(**{"inputs": "in", "output": "out", name: value})


@pytest.mark.parametrize(("name", "value"), [("inputs", ()), ("output", "")])
def test_inputs_and_output_must_not_be_empty(name, value):
    with pytest.raises(UsageError, match=f"^{name}="):
        PreprocessConfig(**{"inputs": "in", "output": "out", name: value})


def test_digests_of_equal_settings_never_change():
    """Datasets on disk keep these digests, so other values would make every dataset again."""
    varied = config(
        hop_s=2.5, min_fill=1, stretch=(0.9,), gains=(-6,), noise_snr=(20,), also=("chord:minor+stretch*0.9",)
    )
    assert [(item.digest, item.example_digest, item.scan_digest) for item in (config(), varied)] == DIGESTS


def test_digest_follows_content_alone():
    same = [
        config(workers=4, overwrite=True, max_skipped=1.0, scratch_gib=0),
        config(hop_s=5),
        config(semitones=(12, 8, 7, 4, 0)),
    ]
    assert {item.digest for item in same} == {config().digest}
    assert config(also=("shift+4",)).digest == config().digest
    other = [config(engine="waveform"), config(spec=FeatureSpec(hop=256)), config(semitones=(0,)), config(min_fill=1)]
    assert len({item.digest for item in [config(), *other]}) == 5
