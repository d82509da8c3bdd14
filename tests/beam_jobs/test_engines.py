"""What the two engines compute, and how far they agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_tools import note
from variant_strategies import VARIANTS, thousandths

from beam_jobs.engines import VariantMaker, Window, add_noise, stack_audio
from beam_jobs.variants import Variant
from beam_jobs.vocoder import Vocoder
from tfpipe.audio.reader import read_window
from tfpipe.errors import TfpipeError, UsageError
from tfpipe.features.log_mel import log_mel
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec()


def parse(*names):
    return [Variant.parse(name) for name in names]


@pytest.mark.parametrize("engine", ["spectral", "waveform"])
def test_original_is_the_plain_feature(engine, clips):
    audio = read_window(clips[0], start_s=5.0, spec=SPEC)
    (features,) = VariantMaker(SPEC, parse("original"), engine).log_mels(Window.of(audio))
    expected = log_mel(audio, SPEC)
    assert features.ref_db == expected.ref_db
    np.testing.assert_array_equal(features.mel, expected.mel)


@pytest.mark.parametrize("engine", ["spectral", "waveform"])
def test_a_tone_moves_to_where_it_should(engine):
    time = np.arange(SPEC.samples) / SPEC.sample_rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    wanted = {"shift+12": 880.0, "shift-5": 440 * 2 ** (-5 / 12), "shift+3.5": 440 * 2 ** (3.5 / 12)}
    shifted = VariantMaker(SPEC, parse(*wanted), engine).log_mels(Window.of(tone))
    for hz, features in zip(wanted.values(), shifted, strict=True):
        direct = log_mel(0.5 * np.sin(2 * np.pi * hz * time), SPEC)
        assert abs(int(features.mel[:, 100].argmax()) - int(direct.mel[:, 100].argmax())) <= 1


def test_spectral_agrees_with_the_waveform_reference(clips):
    variants = parse("shift+4", "shift+7", "chord:major")
    spectral, waveform = (VariantMaker(SPEC, variants, engine) for engine in ("spectral", "waveform"))
    for clip in clips[::5]:
        audio = read_window(clip, start_s=0.0, spec=SPEC)
        original = log_mel(audio, SPEC).mel
        for ours, reference in zip(
            spectral.log_mels(Window.of(audio)), waveform.log_mels(Window.of(audio)), strict=True
        ):
            agreement = np.corrcoef(ours.mel.ravel(), reference.mel.ravel())[0, 1]
            assert agreement > 0.9
            assert np.abs(ours.mel - reference.mel).mean() < np.abs(original - reference.mel).mean()
            assert abs(ours.ref_db - reference.ref_db) < 3.0


def test_variants_do_not_depend_on_their_company():
    audio = note(220, 5, 22_050)
    together = VariantMaker(SPEC, parse("chord:minor", "original", "shift+3")).log_mels(Window.of(audio))
    (alone,) = VariantMaker(SPEC, parse("shift+3")).log_mels(Window.of(audio))
    np.testing.assert_array_equal(together[2].mel, alone.mel)


def test_chord_adds_in_power_for_both_exponents():
    audio = note(220, 5, 22_050)
    for power in (1.0, 2.0):
        spec = FeatureSpec(power=power)
        chord, *parts = VariantMaker(spec, parse("chord:major", "original", "shift+4", "shift+7")).log_mels(
            Window.of(audio)
        )
        squares = [10 ** (((part.mel - 1) * spec.top_db + part.ref_db) / 10 * (2 / power)) for part in parts]
        expected = 10 / (2 / power) * np.log10(np.sum(squares, axis=0) / 9)
        ours = (chord.mel - 1) * spec.top_db + chord.ref_db
        loud = chord.mel > 0.3
        np.testing.assert_allclose(ours[loud], expected[loud], atol=0.01)


def test_impossible_shifts_are_refused_by_the_spectral_engine_alone():
    with pytest.raises(TfpipeError, match=r"-24 semitones leaves .* --engine waveform"):
        VariantMaker(SPEC, parse("shift-24"))
    (features,) = VariantMaker(SPEC, parse("shift-24"), "waveform").log_mels(Window.of(note(880, 5, 22_050)))
    assert features.mel.max() == 1.0
    with pytest.raises(UsageError, match="unknown engine"):
        VariantMaker(SPEC, [], "magic")


def test_a_margin_brings_a_window_closer_to_the_shifted_track():
    track = np.concatenate([note(hz, 1.0, SPEC.sample_rate) for hz in range(200, 325, 10)])
    start = round(4.3 * SPEC.sample_rate)
    whole = Vocoder(track, SPEC.sample_rate).copy(semitones=4)[start : start + SPEC.samples]
    alone = track[start : start + SPEC.samples]
    (ours,), (bare,) = (
        VariantMaker(SPEC, parse("shift+4"), "waveform").log_mels(window)
        for window in (Window.of(track, start), Window.of(alone))
    )
    expected = log_mel(whole, SPEC).mel[:, -3:]
    assert np.abs(ours.mel[:, -3:] - expected).mean() < np.abs(bare.mel[:, -3:] - expected).mean()


@pytest.mark.parametrize("engine", ["spectral", "waveform"])
def test_stretched_time_is_longer_or_shorter(engine):
    """A tone that swells twice a second; no part of a stretched window may be empty."""
    time = np.arange(20 * SPEC.sample_rate) / SPEC.sample_rate
    audio = 0.5 * np.sin(2 * np.pi * 440 * time) * (1 - np.cos(2 * np.pi * 2 * time)) / 2
    hz = np.fft.rfftfreq(8192, SPEC.hop / SPEC.sample_rate)
    for at_s in (0.0, 7.0, 15.0):  # beginning, middle and end of the track
        for stretch in (0.8, 1.25):
            window = Window.of(audio, round(at_s * SPEC.sample_rate))
            (features,) = VariantMaker(SPEC, [Variant(stretch=stretch)], engine).log_mels(window)
            loudness = 10 ** ((features.mel.max(axis=0) - 1) * SPEC.top_db / 10)
            swells = np.abs(np.fft.rfft(loudness - loudness.mean(), 8192))
            assert hz[swells.argmax()] == pytest.approx(2 / stretch, abs=0.05)
            assert loudness[-30:].max() > 0.2


@pytest.mark.parametrize("engine", ["spectral", "waveform"])
def test_gain_moves_the_level_alone_and_exactly(engine):
    audio = note(220, 5, 22_050)
    plain, quiet = VariantMaker(SPEC, parse("shift+4", "shift+4+gain-6dB"), engine).log_mels(Window.of(audio))
    np.testing.assert_array_equal(plain.mel, quiet.mel)
    assert quiet.ref_db == pytest.approx(plain.ref_db - 3.0, abs=1e-3)  # of magnitudes, half the usual decibel
    original, turned_down = log_mel(audio, SPEC), log_mel(audio * 10 ** (-6 / 20), SPEC)
    (ours,) = VariantMaker(SPEC, parse("gain-6dB"), engine).log_mels(Window.of(audio))
    np.testing.assert_allclose(ours.mel, turned_down.mel, atol=1e-6)
    assert ours.ref_db == pytest.approx(turned_down.ref_db, abs=2e-3)
    assert ours.ref_db < original.ref_db


@given(seed=st.integers(0, 99), snr=thousandths(0, 60), key=st.text(min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_noise_has_its_level_cannot_clip_and_follows_from_the_key(seed, snr, key):
    audio = np.random.default_rng(seed).uniform(-0.9, 0.9, 8192)
    noisy = add_noise(audio, snr, key=key)
    np.testing.assert_array_equal(noisy, add_noise(audio, snr, key=key))
    assert not np.array_equal(noisy, add_noise(audio, snr, key=f"{key}."))
    assert np.abs(noisy).max() <= 1.0
    scale = (noisy @ audio) / (audio @ audio)
    noise = noisy / scale - audio
    assert 10 * np.log10(np.mean(audio**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.5)


def test_the_level_of_a_note_tells(clips):
    audio = read_window(clips[0], start_s=3.0, spec=SPEC)
    names = ("chord:0:7", "chord:0:7@-40", "original")
    for engine in ("spectral", "waveform"):
        equal, faint, alone = VariantMaker(SPEC, parse(*names), engine).log_mels(Window.of(audio))
        assert np.abs(faint.mel - alone.mel).mean() < 0.25 * np.abs(equal.mel - alone.mel).mean()


@pytest.mark.parametrize("engine", ["spectral", "waveform"])
def test_examples_follow_from_key_and_variant_alone(engine):
    names = ("noise20dB", "original", "shift+2+noise5dB", "stretch*0.9")
    window = Window.of(note(220, 7, 22_050), 1000)
    keys = [f"track/{name}" for name in names]
    together = VariantMaker(SPEC, parse(*names), engine).log_mels(window, keys)
    for name, key, expected in zip(names, keys, together, strict=True):
        (alone,) = VariantMaker(SPEC, parse(name), engine).log_mels(window, [key])
        assert alone.ref_db == expected.ref_db
        np.testing.assert_array_equal(alone.mel, expected.mel)
    (other,) = VariantMaker(SPEC, parse("noise20dB"), engine).log_mels(window, ["other"])
    assert not np.array_equal(other.mel, together[0].mel)


@given(VARIANTS, st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_stack_cannot_clip(variant, seed):
    parts = np.random.default_rng(seed).uniform(-1, 1, (len(variant.notes), 256))
    assert np.abs(stack_audio(list(parts), variant.weights)).max() <= 1.0
