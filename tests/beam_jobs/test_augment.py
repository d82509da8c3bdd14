import numpy as np
import pytest
from job_tools import note

from beam_jobs.augment import CHORDS, Augmenter, Variant, shift_audio, stack_audio
from tfpipe.audio import read_window
from tfpipe.errors import TfpipeError, UsageError
from tfpipe.features import log_mel
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec()


def parse(*names):
    return [Variant.parse(name) for name in names]


@pytest.mark.parametrize("name", ["original", "shift+4", "shift-2.5", "shift+0.125", "chord:major", "chord:notebook"])
def test_names_can_be_replayed(name):
    assert Variant.parse(name).name == name


def test_shifts_and_chords():
    assert Variant.shift(0) == Variant.shift(-0.0) == Variant.parse("original")
    assert Variant.shift(4.0) == Variant("shift+4", (4.0,))
    assert all(Variant.chord(name).semitones[0] == 0 for name in CHORDS)
    for name in ("shift+x", "shift+nan", "shift+99", "chord:blues", ""):
        with pytest.raises(UsageError):
            Variant.parse(name)


@pytest.mark.parametrize("engine", ["spectral", "waveform"])
def test_original_is_the_plain_feature(engine, clips):
    audio = read_window(clips[0], start_s=5.0, spec=SPEC)
    (features,) = Augmenter(SPEC, parse("original"), engine).log_mels(audio)
    expected = log_mel(audio, SPEC)
    assert features.ref_db == expected.ref_db
    np.testing.assert_array_equal(features.mel, expected.mel)


@pytest.mark.parametrize("engine", ["spectral", "waveform"])
def test_a_tone_moves_to_where_it_should(engine):
    time = np.arange(SPEC.samples) / SPEC.sample_rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    wanted = {"shift+12": 880.0, "shift-5": 440 * 2 ** (-5 / 12), "shift+3.5": 440 * 2 ** (3.5 / 12)}
    shifted = Augmenter(SPEC, parse(*wanted), engine).log_mels(tone)
    for hz, features in zip(wanted.values(), shifted, strict=True):
        direct = log_mel(0.5 * np.sin(2 * np.pi * hz * time), SPEC)
        assert abs(int(features.mel[:, 100].argmax()) - int(direct.mel[:, 100].argmax())) <= 1


def test_spectral_agrees_with_the_waveform_reference(clips):
    variants = parse("shift+4", "shift+7", "chord:major")
    spectral, waveform = (Augmenter(SPEC, variants, engine) for engine in ("spectral", "waveform"))
    for clip in clips[::5]:
        audio = read_window(clip, start_s=0.0, spec=SPEC)
        original = log_mel(audio, SPEC).mel
        for ours, reference in zip(spectral.log_mels(audio), waveform.log_mels(audio), strict=True):
            agreement = np.corrcoef(ours.mel.ravel(), reference.mel.ravel())[0, 1]
            assert agreement > 0.9
            assert np.abs(ours.mel - reference.mel).mean() < np.abs(original - reference.mel).mean()
            assert abs(ours.ref_db - reference.ref_db) < 3.0


def test_variants_do_not_depend_on_their_company():
    audio = note(220, 5, 22_050)
    together = Augmenter(SPEC, parse("chord:minor", "original", "shift+3")).log_mels(audio)
    (alone,) = Augmenter(SPEC, parse("shift+3")).log_mels(audio)
    np.testing.assert_array_equal(together[2].mel, alone.mel)


def test_chord_adds_in_power_for_both_exponents():
    audio = note(220, 5, 22_050)
    for power in (1.0, 2.0):
        spec = FeatureSpec(power=power)
        chord, *parts = Augmenter(spec, parse("chord:major", "original", "shift+4", "shift+7")).log_mels(audio)
        squares = [10 ** (((part.mel - 1) * spec.top_db + part.ref_db) / 10 * (2 / power)) for part in parts]
        expected = 10 / (2 / power) * np.log10(np.sum(squares, axis=0) / 9)
        ours = (chord.mel - 1) * spec.top_db + chord.ref_db
        loud = chord.mel > 0.3
        np.testing.assert_allclose(ours[loud], expected[loud], atol=0.01)


def test_impossible_shifts_are_refused_by_the_spectral_engine_alone():
    with pytest.raises(TfpipeError, match=r"-24 semitones leaves .* --engine waveform"):
        Augmenter(SPEC, parse("shift-24"))
    (features,) = Augmenter(SPEC, parse("shift-24"), "waveform").log_mels(note(880, 5, 22_050))
    assert features.mel.max() == 1.0
    with pytest.raises(UsageError, match="unknown engine"):
        Augmenter(SPEC, [], "magic")


def test_audio_shift_and_stack_keep_length_and_level():
    audio = note(220, 1.0, 22_050, level=0.9)
    parts = [shift_audio(audio, step, sample_rate=22_050) for step in CHORDS["major"]]
    stacked = stack_audio(parts)
    assert stacked.shape == audio.shape
    assert np.abs(stacked).max() <= max(np.abs(part).max() for part in parts)
