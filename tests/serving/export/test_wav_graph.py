"""WAV bytes in a graph: what is read is what the job reads, and what is written is what `write_wav` writes."""

import io

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from serving.export import wav_graph
from tfpipe.audio.level import EDGE_FADE_S
from tfpipe.audio.reader import read_window
from tfpipe.audio.wav import write_wav
from tfpipe.features.log_mel import log_mel
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec(window_s=1.0)
# Full scale of 16 bits. libsndfile rounds down and TensorFlow rounds to the nearest, so samples may differ by one step.
STEP = 1 / 32_768
RNG = np.random.default_rng(0)
NOISE = (0.3 * RNG.standard_normal(SPEC.samples)).astype(np.float32)
TIME = np.arange(SPEC.samples) / SPEC.sample_rate

DECODE = tf.function(lambda wavs: wav_graph.decode_wavs(wavs, SPEC), input_signature=[tf.TensorSpec([None], tf.string)])
ENCODE = tf.function(
    lambda audio, count: wav_graph.encode_wavs(audio, SPEC, count),
    input_signature=[tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.int32)],
)


def wav_of(audio, rate=SPEC.sample_rate, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, audio, rate, subtype, format="WAV")
    return file.getvalue()


def samples_of(wav):
    audio, rate = soundfile.read(io.BytesIO(wav), dtype="float64")
    assert rate == SPEC.sample_rate
    return audio


@pytest.mark.parametrize(
    "audio",
    [
        pytest.param(0.4 * NOISE, id="nothing exceeds full scale"),
        pytest.param(6.0 * NOISE, id="many peaks exceed full scale"),
        pytest.param(
            np.where(np.arange(SPEC.samples) % 5_000 < 3, 3.0, 0.5 * NOISE), id="a few peaks, one at the start"
        ),
        pytest.param(np.where(TIME < 0.9, 0.0, 1.7 * np.sin(3_000 * TIME)), id="a peak at the end"),
        pytest.param(NOISE[:300], id="shorter than both fades"),
        pytest.param(NOISE[:3], id="three samples"),
        pytest.param(NOISE[:1] * 40, id="one sample"),
        pytest.param(np.zeros(500), id="silence"),
    ],
)
def test_a_wav_is_limited_and_faded_as_the_files_are(audio, tmp_path):
    audio = np.asarray(audio, np.float32)
    write_wav(tmp_path / "x.wav", audio, SPEC.sample_rate, fade_s=EDGE_FADE_S)
    [made] = ENCODE(audio[np.newaxis], np.array([len(audio)], np.int32)).numpy()
    expected, rate = soundfile.read(tmp_path / "x.wav", dtype="float64")
    assert soundfile.info(io.BytesIO(made)).subtype == "PCM_16"
    np.testing.assert_allclose(samples_of(made), expected, atol=1.01 * STEP)
    assert rate == SPEC.sample_rate


def test_rows_of_any_length_do_not_change_each_other():
    rows = np.stack([NOISE, 5 * NOISE[::-1]])
    whole, short = ENCODE(rows, np.array([SPEC.samples, 900], np.int32)).numpy()
    assert whole == ENCODE(rows[:1], np.array([SPEC.samples], np.int32)).numpy()[0]
    assert short == ENCODE(rows[1:], np.array([900], np.int32)).numpy()[0]
    assert len(samples_of(short)) == 900
    assert ENCODE(np.zeros((0, SPEC.samples), np.float32), np.zeros(0, np.int32)).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_audio_that_is_not_finite_is_refused(bad):
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds NaN or Inf"):
        ENCODE(np.full((1, 100), bad, np.float32), np.array([100], np.int32))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 47_999, 48_000, 96_000])
@pytest.mark.parametrize("seconds", [0.4, 3.3])
def test_the_first_window_of_a_file_is_the_one_that_the_job_reads(rate, seconds, tmp_path):
    time_s = np.arange(round(seconds * rate)) / rate
    sound = sum(np.sin(2 * np.pi * f * time_s + f) for f in (55, 440, 1_234.5, 3_000)) / 8
    sound += 0.02 * RNG.standard_normal(len(sound))
    soundfile.write(tmp_path / "x.wav", sound, rate, "PCM_16")
    audio, count = (part.numpy()[0] for part in DECODE([(tmp_path / "x.wav").read_bytes()]))
    assert count == min(SPEC.samples, round(seconds * SPEC.sample_rate))
    expected = read_window(tmp_path / "x.wav", start_s=0.0, spec=SPEC)
    if rate == SPEC.sample_rate:
        np.testing.assert_array_equal(audio, expected.astype(np.float32))
    ours, theirs = log_mel(audio.astype(np.float64), SPEC), log_mel(expected, SPEC)
    assert ours.ref_db == pytest.approx(theirs.ref_db, abs=0.02)
    # Of the bands that both rates have: the two low-passes end at other frequencies.
    heard = 100 if rate > 2 * SPEC.fmax else 70
    # Behind the end of a short file the two resamplers ring differently, 60 dB below the sound.
    frames = count // SPEC.hop - 2
    assert np.abs(ours.mel - theirs.mel)[:heard, :frames].mean() < 2e-3


def test_channels_are_mixed_as_the_job_mixes_them(tmp_path):
    quiet = 0.5 * NOISE
    for name, channels in (("mean", [NOISE, quiet, 0 * quiet]), ("cancelled", [quiet, -0.9 * quiet]), ("one", [NOISE])):
        soundfile.write(tmp_path / f"{name}.wav", np.stack(channels, axis=1), SPEC.sample_rate, "PCM_16")
        audio, _ = DECODE([(tmp_path / f"{name}.wav").read_bytes()])
        np.testing.assert_allclose(audio[0], read_window(tmp_path / f"{name}.wav", start_s=0.0, spec=SPEC), atol=1e-6)


def test_files_of_different_rates_share_a_batch():
    wavs = [wav_of(NOISE[:5_000]), wav_of(NOISE, 44_100), wav_of(NOISE[:10], 8_000)]
    audio, count = DECODE(wavs)
    assert count.numpy().tolist() == [5_000, 11_025, 28]
    for row, wav in enumerate(wavs):
        np.testing.assert_array_equal(audio[row], DECODE([wav])[0][0])
    assert [part.shape[0] for part in DECODE(tf.zeros([0], tf.string))] == [0, 0]


@pytest.mark.parametrize(
    ("wav", "says"),
    [
        (b"", "too short"),
        (b"RIFF no sound", "Expected WAVE"),
        (wav_of(NOISE, subtype="PCM_24"), "16"),
        (wav_of(NOISE, subtype="FLOAT"), "PCM"),
        (wav_of(NOISE[:0]), "no samples"),
        (wav_of(NOISE, 999), "the sample rate must be 1000 to 1000000 Hz; best is 22050 Hz, not"),
        (wav_of(NOISE)[:20_000], "bytes|data|Data"),
    ],
    ids=["nothing", "no wav", "24 bits", "floats", "empty", "too slow", "cut off"],
)
def test_what_is_no_such_wav_is_refused(wav, says):
    with pytest.raises(tf.errors.InvalidArgumentError, match=says):
        DECODE([wav])
