"""Augmentation in the input pipeline: what each setting does, and that draws depend on the example alone."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from dataset_tools import example, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tfpipe.cli.main import main
from tfpipe.commands.train import add_training_arguments, training_settings
from tfpipe.data import augmentation_tf
from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.manifest import load_manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.data.position import Part, Position
from tfpipe.errors import RunError, UsageError
from tfpipe.files.storage import read_json, write_json
from tfpipe.spec import FeatureSpec
from tfpipe.training.config import TrainConfig, preset_augment
from tfpipe.training.run_folder import claim
from tfpipe.workflow.configs import train_config

SPEC = FeatureSpec(n_mels=40, window_s=1.0)
ALL = AugmentConfig(freq_mask=16, time_mask=24, masks=2, roll_s=0.4, gain_db=6.0, mixup=0.4)
ALONE = {name: dataclasses.replace(AugmentConfig(masks=2), **{name: getattr(ALL, name)}) for name in ALL.on}
configs = st.builds(
    AugmentConfig,
    freq_mask=st.sampled_from([0, 2, 16, 40]),
    time_mask=st.sampled_from([0, 2, 24, 44]),
    masks=st.integers(1, 3),
    roll_s=st.sampled_from([0.0, 0.03, 0.5]),
    gain_db=st.sampled_from([0.0, 6.0, 80.0]),
    mixup=st.sampled_from([0.0, 0.01, 0.2, 1.0, 100.0]),
)


def windows(rows: int, seed: int = 0, spec: FeatureSpec = SPEC) -> dict[str, tf.Tensor]:
    """A batch of random windows, none of whose codes is 0."""
    rng = np.random.default_rng(seed)
    return {
        "mel": tf.constant(rng.integers(1, 256, (rows, *spec.mel_shape, 1), np.uint8)),
        "ref_db": tf.constant(rng.uniform(-40.0, 10.0, rows), tf.float32),
        "label": tf.constant(rng.integers(0, 3, rows), tf.int64),
        "key": tf.constant([f"track{seed}/{row * 5.0}/shift+{row % 3}" for row in range(rows)]),
    }


def rows_of(batch: dict[str, tf.Tensor], rows: list[int]) -> dict[str, tf.Tensor]:
    return {name: tf.gather(value, rows) for name, value in batch.items()}


def augmented(batch: dict[str, tf.Tensor], config: AugmentConfig, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return augmentation_tf.apply(batch, config, spec=SPEC, seed=seed, epoch=epoch)["mel"].numpy()[..., 0]


@settings(max_examples=25, deadline=None)
@given(config=configs, rows=st.integers(1, 9), seed=st.integers(0, 2**31 - 1))
def test_structure_types_and_repetition(config: AugmentConfig, rows: int, seed: int) -> None:
    batch = windows(rows, seed % 7)
    first, again = (augmentation_tf.apply(batch, config, spec=SPEC, seed=seed, epoch=1) for _ in range(2))
    assert {name: (value.dtype, value.shape) for name, value in first.items()} == {
        name: (value.dtype, value.shape) for name, value in batch.items()
    }
    for name, value in first.items():
        assert np.array_equal(value, again[name])
        if name in ("label", "key") or not config.on:
            assert np.array_equal(value, batch[name])


@settings(max_examples=25, deadline=None)
@given(config=configs, rows=st.permutations(range(8)), kept=st.integers(1, 8), seed=st.integers(0, 2**31 - 1))
def test_a_row_is_augmented_alike_in_any_batch(config: AugmentConfig, rows: list[int], kept: int, seed: int) -> None:
    config = dataclasses.replace(config, mixup=0.0)
    batch, picked = windows(8), rows[:kept]
    assert np.array_equal(augmented(rows_of(batch, picked), config, seed), augmented(batch, config, seed)[picked])


def test_graph_mode_gives_the_same_with_an_unknown_batch() -> None:
    batch = windows(6)
    apply = tf.function(
        lambda batch: augmentation_tf.apply(batch, ALL, spec=SPEC, seed=3, epoch=2),
        input_signature=[{name: tf.TensorSpec([None, *value.shape[1:]], value.dtype) for name, value in batch.items()}],
    )
    assert np.array_equal(apply(batch)["mel"][..., 0], augmented(batch, ALL, seed=3, epoch=2))


def test_each_does_what_it_says() -> None:
    batch = windows(64)
    mel = batch["mel"].numpy()[..., 0]
    rolled = augmented(batch, ALONE["roll_s"])
    most = round(ALL.roll_s * SPEC.sample_rate / SPEC.hop)
    shifts = []
    for row, window in zip(mel, rolled, strict=True):
        (shift,) = [s for s in range(-most, most + 1) if np.array_equal(window, np.roll(row, s, axis=1))]
        shifts.append(shift)
    assert min(shifts) < -most // 2 < 0 < most // 2 < max(shifts)

    down = augmented(batch, ALONE["gain_db"]).astype(int)
    lost = (mel - down).max(axis=(1, 2))
    assert np.array_equal(down, np.maximum(mel.astype(int) - lost[:, None, None], 0))
    assert lost.max() <= round(255 * ALL.gain_db / SPEC.top_db)
    assert len(set(lost)) > 10

    for name, axis in (("freq_mask", 1), ("time_mask", 2)):
        masked = augmented(batch, ALONE[name])
        assert np.array_equal(masked, np.where(masked == 0, 0, mel))
        places = (masked == 0).all(axis=3 - axis)
        assert np.array_equal(places, (masked == 0).any(axis=3 - axis))  # whole bands or frames
        assert 0 < places.sum(axis=1).max() <= 2 * (getattr(ALL, name) - 1)


def test_mixup_mixes_each_row_with_another_of_the_batch() -> None:
    batch = windows(8)
    mel, ref_db = batch["mel"].numpy()[..., 0].astype(float), batch["ref_db"].numpy()
    result = augmentation_tf.apply(batch, AugmentConfig(mixup=5.0), spec=SPEC, seed=1, epoch=0)
    mixed, levels = result["mel"].numpy()[..., 0], result["ref_db"].numpy()
    partners = set()
    for row in range(8):
        shares = [
            # Least squares for the other row's share.
            (
                np.vdot(mixed[row] - mel[row], mel[other] - mel[row])
                / np.vdot(mel[other] - mel[row], mel[other] - mel[row])
            )
            if other != row
            else 0.0
            for other in range(8)
        ]
        partner = int(np.argmax(shares))
        share = round(shares[partner] * 256) / 256
        assert 0.0 < share <= 0.5
        np.testing.assert_allclose(mixed[row], mel[row] + share * (mel[partner] - mel[row]), atol=0.51)
        np.testing.assert_allclose(levels[row], ref_db[row] + share * (ref_db[partner] - ref_db[row]), rtol=1e-5)
        partners.add((partner - row) % 8)
    assert len(partners) > 3
    lone = rows_of(batch, [3])
    assert np.array_equal(augmented(lone, AugmentConfig(mixup=5.0)), lone["mel"][..., 0])


def test_masks_stay_zero_under_everything_else() -> None:
    batch, keys = windows(32), windows(32)["key"]
    everything = augmented(batch, ALL)
    masked = (augmented(batch, ALONE["freq_mask"]) == 0) | (augmented(batch, ALONE["time_mask"]) == 0)
    assert masked.any(axis=(1, 2)).sum() > 20
    assert not everything[masked].any()
    assert len(set(keys.numpy())) == 32


@pytest.mark.parametrize("name", ["gain", "roll", "freq_mask 0 width"])
def test_draws_are_uniform_and_independent(name: str) -> None:
    keys = tf.constant([f"{row // 4:040x}/{row % 4 * 5.0}/shift+{row % 3}" for row in range(40_000)])
    draw = augmentation_tf.uniform(keys, 0, 0, name).numpy()
    assert 0.0 <= draw.min() < draw.max() < 1.0
    assert stats.kstest(draw, "uniform").pvalue > 1e-3
    others = [
        augmentation_tf.uniform(keys, 0, 0, name + "'").numpy(),
        augmentation_tf.uniform(keys, 1, 0, name).numpy(),
        augmentation_tf.uniform(keys, 0, 1, name).numpy(),
        np.roll(draw, 1),  # the next window, or the next variant
    ]
    for other in others:
        table = np.histogram2d(draw, other, bins=16, range=[[0, 1], [0, 1]])[0]
        assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 4.0])
def test_mixup_share_is_a_folded_beta(alpha: float) -> None:
    keys = tf.constant([str(row) for row in range(20_000)])
    share = augmentation_tf.mixup_share(
        alpha, *(augmentation_tf.uniform(keys, 0, 0, name) for name in ("a", "b"))
    ).numpy()
    assert 0.5 <= share.min() <= share.max() <= 1.0
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(share, lambda x: beta.cdf(x) - beta.cdf(1.0 - x)).pvalue > 1e-3


def test_mixup_share_at_the_ends_of_its_draws_is_a_number() -> None:
    ends = tf.constant([0.0, 2.0**-32, 0.25, 0.5, 1.0 - 2.0**-32], tf.float64)
    first, second = (tf.reshape(grid, [-1]) for grid in tf.meshgrid(ends, ends))
    for alpha in (0.01, 0.2, 100.0):
        share = augmentation_tf.mixup_share(alpha, first, second).numpy()
        assert ((share >= 0.5) & (share <= 1.0)).all()


@pytest.mark.parametrize(("name", "axis"), [("freq_mask", 1), ("time_mask", 0)])
@pytest.mark.filterwarnings("ignore::UserWarning")  # on the latest lane most of tensorflow-io does not load
def test_masks_have_the_distribution_of_tensorflow_io(name: str, axis: int) -> None:
    tfio = pytest.importorskip("tensorflow_io")
    theirs = getattr(tfio.audio, name)
    param, count = 5, 6000
    size = SPEC.mel_shape[1 - axis]
    shape = (1, size) if axis else (size, 1)

    @tf.function
    def masked() -> tf.Tensor:
        return tf.map_fn(
            lambda _: tf.reshape(theirs(tf.ones(shape), param), [size]), tf.range(count), fn_output_signature=tf.float32
        )

    tf.random.set_seed(1)
    zeros = masked().numpy() == 0.0
    expected = Counter(zip(zeros.sum(axis=1).tolist(), zeros.argmax(axis=1).tolist(), strict=True))
    mel = augmented(windows(count), AugmentConfig(**{name: param}))
    zeros = (mel == 0).all(axis=1 + axis)
    got = Counter(zip(zeros.sum(axis=1).tolist(), zeros.argmax(axis=1).tolist(), strict=True))
    assert expected.keys() == got.keys()
    table = [[counts[place] for place in sorted(expected)] for counts in (expected, got)]
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensorflow_io_masks_by_the_stateful_generator() -> None:
    """This is why its functions are not used here. If this test fails, they may have become usable."""
    tfio = pytest.importorskip("tensorflow_io")
    for function in (tfio.audio.freq_mask, tfio.audio.time_mask):
        graph = (
            tf.function(lambda mel, function=function: function(mel, 4)).get_concrete_function(tf.ones([8, 8])).graph
        )
        draws = [node for node in graph.get_operations() if "Random" in node.type]
        assert {node.type for node in draws} == {"RandomUniformInt"}
        assert {tuple(node.outputs[0].shape) for node in draws} == {()}


def test_a_roll_beyond_half_a_window_is_any_roll() -> None:
    batch = windows(200)
    rolled = augmented(batch, AugmentConfig(roll_s=60.0))
    shifts = set()
    for row, window in zip(batch["mel"].numpy()[..., 0], rolled, strict=True):
        (shift,) = [s for s in range(SPEC.frames) if np.array_equal(window, np.roll(row, s, axis=1))]
        shifts.add(shift)
    assert max(shifts) > 0.9 * SPEC.frames
    assert len(shifts) > SPEC.frames / 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", AugmentConfig(roll_s=2.5)),
        ("--mixup 0.2 --roll-s 0", AugmentConfig(mixup=0.2)),
        ("--freq-mask 8", AugmentConfig(freq_mask=8, roll_s=2.5)),
        ("--preset notebook", AugmentConfig()),
        ("--preset tiny --roll-s 1", AugmentConfig(roll_s=1.0)),
    ],
)
def test_what_a_preset_turns_on_stays_unless_told(options: str, expected: AugmentConfig) -> None:
    parser = argparse.ArgumentParser()
    add_training_arguments(parser)
    config = train_config("data", "run", training_settings(parser.parse_args(options.split())))
    assert config.augment == expected
    assert TrainConfig(data="data", run="run", preset=config.preset).augment == preset_augment(config.preset)
    assert config.to_dict()["roll_s"] == expected.roll_s


# In the pipeline --------------------------------------------------------------


def by_key(folder: Path, **more: Any) -> dict[bytes, np.ndarray]:
    elements = make_dataset(folder, split="train", batch_size=6, seed=5, **more).as_numpy_iterator()
    return {key: mel for batch in elements for key, mel in zip(batch["key"], batch["mel"], strict=True)}


def test_pipeline_augments_epochs_and_variants_apart_in_an_unchanged_order(dataset: Path) -> None:
    plain, masked = by_key(dataset), by_key(dataset, augment=ALL)
    assert list(plain) == list(masked)
    assert all(mel.dtype == np.uint8 for mel in masked.values())
    assert sum(np.array_equal(plain[key], masked[key]) for key in plain) < len(plain) / 4
    silenced = AugmentConfig(time_mask=40)
    first, second = by_key(dataset, augment=silenced), by_key(dataset, augment=silenced, position=Position(epoch=1))
    places = {key: (mel == 0).all(axis=(0, 2)).tobytes() for key, mel in first.items()}
    assert sum((second[key] == 0).all(axis=(0, 2)).tobytes() != place for key, place in places.items()) > len(first) / 2
    variants: dict[bytes, set[bytes]] = {}
    for key, place in places.items():
        variants.setdefault(key.rpartition(b"/")[0], set()).add(place)
    assert len({place for group in variants.values() for place in group}) > len(variants)


def test_position_goes_on_exactly_and_parts_agree(dataset: Path) -> None:
    whole = by_key(dataset, augment=ALL)
    rest = by_key(dataset, augment=ALL, position=Position(step=2))
    assert list(rest) == list(whole)[12:]
    assert all(np.array_equal(mel, whole[key]) for key, mel in rest.items())
    alone = dataclasses.replace(ALL, mixup=0.0)
    whole = by_key(dataset, augment=alone)
    for worker in range(2):
        for key, mel in by_key(dataset, augment=alone, part=Part(worker=worker, workers=2)).items():
            assert np.array_equal(mel, whole[key])


def test_pipeline_refuses_augmentation_without_a_seed_and_what_does_not_fit(dataset: Path) -> None:
    with pytest.raises(UsageError, match=r"freq_mask.*for training: give make_dataset a seed"):
        make_dataset(dataset, split="test", batch_size=4, augment=ALL)
    make_dataset(dataset, split="test", batch_size=4, augment=AugmentConfig())
    with pytest.raises(UsageError, match="at most the 128 bands"):
        make_dataset(dataset, split="train", batch_size=4, seed=0, augment=AugmentConfig(freq_mask=129))


def test_a_run_older_than_augmentation_goes_on_where_all_is_off(dataset: Path, tmp_path: Path) -> None:
    manifest, run = load_manifest(dataset), tmp_path / "run"
    off = TrainConfig(data=str(dataset), run=str(run), preset="compact", augment=AugmentConfig())
    claim(run, off, manifest)
    # fmt: off
    older = [
        "data", "run", "preset", "latent", "batch_size", "epochs", "learning_rate", "schedule", "patience", "seed",
        "precision", "strategy", "checkpoint_every_s", "labels", "dataset",
    ]
    # fmt: on
    stored = read_json(run / "config.json")
    assert {*older, *dataclasses.asdict(ALL)} <= stored.keys()
    write_json(run / "config.json", {name: stored[name] for name in older})
    claim(run, off, manifest)
    with pytest.raises(RunError, match=r"settings \(freq_mask: 0 there, 16 now; time_mask"):
        claim(run, dataclasses.replace(off, augment=ALL), manifest)
    claim(tmp_path / "new", dataclasses.replace(off, augment=ALL), manifest)
    with pytest.raises(RunError, match=r"mixup: 0\.4 there, 0\.0 now"):
        claim(tmp_path / "new", off, manifest)


@pytest.mark.slow
def test_inspect_draws_the_augmented_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = tmp_path / "data"
    rows = [example(0), example(0, variant="shift+7"), example(1, label=1), example(1, label=1, variant="shift+7")]
    write_dataset(dataset, {"train-00000-of-00001.tfrecord": rows})
    assert main(["inspect", str(dataset), "--augmented"]) == 2
    assert "--plots" in capsys.readouterr().err
    assert main(["inspect", str(dataset), "--freq-mask", "16", "--plots", str(tmp_path)]) == 2
    assert "add --augmented" in capsys.readouterr().err
    arguments = ["--augmented", "--gain-db", "6", "--mixup", "1", "--plots", str(tmp_path)]
    assert main(["inspect", str(dataset), *arguments]) == 0
    assert str(tmp_path / "augmented.png") in capsys.readouterr().out
    from matplotlib.image import imread

    # Four columns (as stored, gain, mixup, all) and two rows for each of two labels.
    height, width = imread(tmp_path / "augmented.png").shape[:2]
    assert width / height == pytest.approx((4 * 4.2 + 1.2) / (4 * 3.2), rel=0.01)
