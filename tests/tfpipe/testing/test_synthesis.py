"""The synthesised corpus: the same files everywhere, at a sane level, and piano and voice sound different."""

import librosa
import numpy as np
import pytest
import soundfile

from tfpipe.audio.reader import probe
from tfpipe.cli.main import main
from tfpipe.errors import TfpipeError, UsageError
from tfpipe.files.storage import sha256_file
from tfpipe.testing.recording import SAMPLE_RATE
from tfpipe.testing.synthesis import synthesise


@pytest.fixture(scope="module")
def corpus(synth_corpus):
    """Label -> list of `[samples]`."""
    return {
        label: [soundfile.read(path)[0] for path in sorted((synth_corpus / label).glob("*.wav"))]
        for label in ("Piano", "Voice")
    }


def test_the_files_are_those_it_returns(tmp_path):
    paths = synthesise(tmp_path, tracks_per_label=2, seconds=1.5)
    assert paths == sorted(tmp_path.glob("*/*.wav"))
    assert [path.parent.name for path in paths] == ["Piano", "Piano", "Voice", "Voice"]
    info = probe(paths[-1])
    assert (info.sample_rate, info.channels, info.frames, info.format) == (SAMPLE_RATE, 1, 33_075, "WAV/PCM_16")


def test_more_tracks_do_not_change_the_first_and_another_seed_changes_all(tmp_path):
    few = synthesise(tmp_path / "few", tracks_per_label=1, seconds=2.0, seed=3)
    many = synthesise(tmp_path / "many", tracks_per_label=2, seconds=2.0, seed=3)
    other = synthesise(tmp_path / "other", tracks_per_label=1, seconds=2.0, seed=4)
    digests = {path.relative_to(tmp_path / "many"): sha256_file(path) for path in many}
    assert len(set(digests.values())) == 4
    for path in few:
        assert sha256_file(path) == digests[path.relative_to(tmp_path / "few")]
    for path in other:
        assert sha256_file(path) != digests[path.relative_to(tmp_path / "other")]


def test_the_bytes_are_the_same_on_both_lanes(tmp_path):
    # Both lanes, with NumPy 1.26 and 2.4, gave these.
    piano, voice = synthesise(tmp_path, tracks_per_label=1, seconds=3.0)
    assert sha256_file(piano).startswith("7536915564fa1ed1")
    assert sha256_file(voice).startswith("7d976ffb92a81af0")


@pytest.mark.parametrize("label", ["Piano", "Voice"])
def test_no_track_is_too_loud_too_quiet_or_off_centre(corpus, label):
    for audio in corpus[label]:
        assert 0.49 <= np.abs(audio).max() <= 0.91
        assert -30.0 < 20 * np.log10(np.sqrt(np.mean(audio**2))) < -12.0
        assert abs(audio.mean()) < 0.01


def test_a_piano_rings_and_a_voice_pauses(corpus):
    from librosa.effects import harmonic

    def harmonic_share(audio):
        audio = audio[: 4 * SAMPLE_RATE]
        return np.sum(harmonic(audio) ** 2) / np.sum(audio**2)

    def pauses(audio):
        rms = librosa.feature.rms(y=audio)[0]
        return np.mean(rms < 0.05 * rms.max())

    # The separation takes half a second a track, so two of each label have to do.
    assert min(map(harmonic_share, corpus["Piano"][:2])) > 0.8 > 0.75 > max(map(harmonic_share, corpus["Voice"][:2]))
    assert max(map(pauses, corpus["Piano"])) < 0.05 < 0.08 < min(map(pauses, corpus["Voice"]))
    for audio in corpus["Piano"] + corpus["Voice"]:
        assert 400 < np.median(librosa.feature.spectral_centroid(y=audio)) < 5000


@pytest.mark.slow
def test_voices_have_pitches_in_the_human_range_that_differ(corpus):
    medians = []
    for audio in corpus["Voice"]:
        f0, voiced, _ = librosa.pyin(audio[: 3 * SAMPLE_RATE], fmin=50, fmax=500, sr=SAMPLE_RATE)
        assert 0.3 < np.mean(voiced) < 0.95
        medians.append(np.median(f0[voiced]))
    assert all(75 < median < 330 for median in medians)
    assert max(medians) / min(medians) > 1.02


@pytest.mark.parametrize(
    "arguments", [{"tracks_per_label": 0}, {"seconds": 0.0}, {"seconds": float("nan")}, {"seconds": 1e9}, {"seed": -1}]
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(tmp_path, arguments):
    with pytest.raises(UsageError, match="use"):
        synthesise(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_tracks_may_be_very_short(tmp_path):
    assert len(synthesise(tmp_path, tracks_per_label=1, seconds=0.1)) == 2


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "Piano").write_text("in the way")
    with pytest.raises(TfpipeError, match="Piano"):
        synthesise(tmp_path, tracks_per_label=1, seconds=0.5)


def test_the_command_makes_the_corpus_and_refuses_nonsense_in_one_line(tmp_path, capsys):
    assert main(["synth", str(tmp_path / "out"), "--tracks", "1", "--seconds", "1"]) == 0
    assert len(list((tmp_path / "out").glob("*/*.wav"))) == 2
    capsys.readouterr()
    assert main(["synth", str(tmp_path), "--tracks", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
