"""The studio's actions on a model with a prior: what they make is what the model makes, and what they refuse."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from serving_tools import eventually

import tfpipe as tp
from serving.client.vae import Vae
from serving.protocol.names import REF_DB
from tfpipe.audio.wav import write_wav
from tfpipe.cli.main import main
from tfpipe.errors import AudioError, UsageError
from tfpipe.studio.jobs import Jobs
from tfpipe.studio.recipes import Recipes
from tfpipe.studio.shelf import MOST_SOUNDS, Sound, file_name
from tfpipe.studio.space import REACH, Space
from tfpipe.studio.studio import Studio


@pytest.fixture(scope="module")
def vae(prior_exported: Path) -> Iterator[Vae]:
    with tp.load(prior_exported) as opened:
        yield opened


@pytest.fixture
def studio(vae: Vae, tmp_path: Path) -> Studio:
    (tmp_path / "work").mkdir()
    return Studio(vae, folder=tmp_path / "work", keep=tmp_path / "kept", recipes=Recipes(vae.target))


def heard(path: Path) -> np.ndarray[Any, Any]:
    """Returns the samples of a wav without its faded ends."""
    audio, _ = soundfile.read(path)
    return np.asarray(audio[2000:-2000])


def latent(sound: Sound) -> np.ndarray[Any, Any]:
    """Returns the latent of a sound that the model has made."""
    assert sound.z is not None
    return sound.z


def written(audio: np.ndarray[Any, Any], studio: Studio) -> np.ndarray[Any, Any]:
    """Returns audio as a wav has it: 16 bits, turned down around peaks."""
    path = studio.keep_folder.with_name("written.wav")
    write_wav(path, audio, studio.spec.sample_rate)
    return heard(path)


def test_a_draw_is_what_the_model_draws(studio: Studio) -> None:
    label = studio.vae.describe()["labels"][0]
    [sound] = studio.act("draw", {"label": label, "seed": 5, "temperature": 0.8})
    made = studio.vae.generate([5], 0.8, label)
    np.testing.assert_allclose(latent(sound), made.z[0], atol=1e-6)
    audio = studio.vae.decode_audio(made.z, [REF_DB])[0]
    np.testing.assert_allclose(heard(sound.path), written(audio, studio), atol=1e-3)
    assert sound.seconds == pytest.approx(studio.spec.window_s, abs=0.1)


def test_the_python_that_is_shown_makes_the_same_sound(studio: Studio) -> None:
    [sound] = studio.act("draw", {"seed": 7})
    names: dict[str, Any] = {}
    exec(sound.recipe["python"], names)
    names["vae"].close()
    np.testing.assert_allclose(heard(sound.path), written(names["audio"], studio), atol=1e-3)


@pytest.mark.slow
def test_the_python_for_saved_latents_and_recordings_makes_the_same_sounds(
    studio: Studio, recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [[first], [second]] = [studio.act("draw", {"seed": seed}) for seed in (1, 2)]
    studio.write_latent(first, Path("start.npz"))
    studio.write_latent(second, Path("other.npz"))
    shutil.copy(recordings[0], tmp_path / "song.wav")
    upload = studio.uploads.add("song.wav", Path(shutil.copy(recordings[0], studio.uploads.new_path("song.wav"))))
    job = Jobs(studio).start(upload.key)
    eventually(lambda: job.state not in ("waiting", "running"))
    assert job.sound is not None, job.error
    made = [
        *studio.act("mix", {"first": first.key, "second": second.key, "share": 0.25}),
        *studio.act("vary", {"sound": first.key, "amount": 0.5, "seed": 3}),
        *studio.act("continue", {"sound": first.key, "seconds": 2 * studio.spec.window_s, "seed": 1}),
        studio.act("window", {"file": upload.key, "start_s": 0.5})[1],
        job.sound,
    ]
    for sound in made:
        names: dict[str, Any] = {}
        exec(sound.recipe["python"], names)
        names["vae"].close()
        np.testing.assert_allclose(heard(sound.path), written(names["audio"], studio), atol=2e-3, err_msg=sound.title)


@pytest.mark.slow
def test_the_command_that_is_shown_runs(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    [sound] = studio.act("draw", {"seed": 7})
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(sound.recipe["command"])[1:]) == 0
    [wav] = (tmp_path / "sounds").glob("*.wav")
    np.testing.assert_allclose(heard(sound.path), heard(wav), atol=1e-3)


def test_a_window_is_the_original_and_its_reconstruction(studio: Studio, recordings: list[Path]) -> None:
    copy = studio.uploads.new_path("my sound.wav")
    shutil.copy(recordings[0], copy)
    upload = studio.uploads.add("../my sound.wav", copy)
    original, rebuilt = studio.act("window", {"file": upload.key, "start_s": 1e9})
    assert upload.name == "my sound.wav"
    last = max(0.0, upload.seconds - studio.spec.window_s)
    assert original.title == f"my sound.wav, {last:.1f} s, original"
    assert original.z is None
    encoded = studio.vae.encode_audio(soundfile.read(original.path)[0][np.newaxis])
    assert np.corrcoef(latent(rebuilt), encoded.z_mean[0])[0, 1] > 0.99


def test_moves_mixes_variations_and_continuations(studio: Studio) -> None:
    [[first], [second]] = [studio.act("draw", {"seed": seed}) for seed in (1, 2)]
    count = len(studio.space.find().spread)
    [still] = studio.act("move", {"sound": first.key, "amounts": [0.0] * count})
    [moved] = studio.act("move", {"sound": first.key, "amounts": [REACH] + [0.0] * (count - 1)})
    np.testing.assert_allclose(latent(still), latent(first), atol=1e-6)
    change = (latent(moved) - latent(first)).reshape(studio.vae.describe()["latent_shape"])
    np.testing.assert_allclose(change, np.broadcast_to(change[0], change.shape), atol=1e-5)  # all steps alike
    assert np.linalg.norm(change[0]) == pytest.approx(REACH * studio.space.find().spread[0], rel=1e-4)

    ends = [studio.act("mix", {"first": first.key, "second": second.key, "share": share})[0] for share in (0.0, 1.0)]
    np.testing.assert_allclose(latent(ends[0]), latent(first), atol=1e-5)
    np.testing.assert_allclose(latent(ends[1]), latent(second), atol=1e-5)

    [varied] = studio.act("vary", {"sound": first.key, "amount": 0.5, "seed": 3})
    np.testing.assert_allclose(latent(varied), studio.vae.vary(latent(first)[None], 0.5, [3]).z[0], atol=1e-5)

    [longer] = studio.act("continue", {"sound": first.key, "seconds": 2.5 * studio.spec.window_s, "seed": 1})
    assert longer.seconds == pytest.approx(2.5 * studio.spec.window_s, abs=0.01)


def test_points_of_the_map_can_be_played_and_lie_where_they_are_drawn(studio: Studio) -> None:
    found = studio.space.find()
    assert np.ptp(np.array(found.places), axis=0) == pytest.approx([1.0, 1.0])
    [sound] = studio.act("point", {"index": 3})
    assert sound.title == found.points[3].title
    assert studio.space.place(latent(sound)) == pytest.approx(found.places[3], abs=1e-6)


def test_the_map_of_a_corpus_is_read_from_the_report(vae: Vae, tmp_path: Path) -> None:
    from tfpipe.run_report.window_map import write_parquet

    size, path = vae.describe()["latent"], tmp_path / "windows.parquet"
    z = np.random.default_rng(0).standard_normal((9, size)).astype(np.float32)
    rows = {"recording": ["a.wav"] * 9, "start_s": np.arange(9.0), "label": ["Piano"] * 9}
    write_parquet(path, {**rows, "z": z})
    found = Space(vae, path).find()
    assert [point.title for point in found.points][:2] == ["a.wav, 0 s", "a.wav, 1 s"]
    np.testing.assert_array_equal(found.z, z)
    write_parquet(path, {**rows, "z": z[:, 1:]})
    with pytest.raises(UsageError, match="of another model"):
        Space(vae, path)
    path.write_text("no parquet")
    with pytest.raises(UsageError, match="is no file of windows"):
        Space(vae, path)


def test_kept_sounds_can_be_decoded_again(studio: Studio, tmp_path: Path) -> None:
    [sound] = studio.act("draw", {"seed": 4})
    paths = [studio.keep(sound.key), studio.keep(sound.key)]
    assert [path.name for path in paths] == ["draw-4.wav", "draw-4-2.wav"]
    assert paths[0].read_bytes() == sound.path.read_bytes()
    assert sound.recipe["command"] in paths[0].with_suffix(".txt").read_text()
    latent, out = str(paths[0].with_suffix(".npz")), tmp_path / "decoded"
    assert main(["decode", latent, "--model", studio.vae.target, "--out", str(out)]) == 0
    np.testing.assert_allclose(heard(out / "00000.wav"), heard(sound.path), atol=1e-3)


@pytest.mark.parametrize(
    ("action", "asked", "says"),
    [
        ("sing", {}, "there is no such action"),
        ("draw", {"seed": 1.5}, "seed is not a whole number"),
        ("draw", {"seed": True}, "seed is not a whole number"),
        ("draw", {"temperature": float("nan")}, "temperature is not a number"),
        ("draw", {"temperature": 1e9}, "temperature is not a number from"),
        ("draw", {"label": "Tuba"}, "'Tuba' is not one of the model's"),
        ("draw", {"label": 3}, "label is not a text"),
        ("move", {"sound": "s999"}, "no longer here"),
        ("move", {"sound": ["s1"]}, "no longer here"),
        ("move", {"sound": "s1", "amounts": [9.0]}, "amounts from -3 to 3"),
        ("move", {"sound": "s1", "amounts": ["1"]}, "amounts are needed"),
        ("move", {"sound": "s1", "amounts": [0.0] * 99}, "use at most"),
        ("mix", {"first": "s1", "second": "s1", "share": 2}, "share is not a number from 0 to 1"),
        ("vary", {"sound": "s1", "amount": -1}, "amount is not a number"),
        ("continue", {"sound": "s1", "seconds": 1e6}, "seconds is not a number"),
        ("point", {"index": -1}, "no such point"),
        ("window", {"file": None}, "drop it again"),
    ],
)
def test_what_is_wrong_is_refused_in_words(studio: Studio, action: str, asked: dict[str, Any], says: str) -> None:
    studio.act("draw", {"seed": 1})
    with pytest.raises(UsageError, match=says):
        studio.act(action, asked)


def test_files_that_are_no_sound_are_refused_by_their_own_name(studio: Studio) -> None:
    path = studio.uploads.new_path("notes.mp3")
    path.write_bytes(b"this is no sound" * 100)
    with pytest.raises(AudioError, match=r"^notes\.mp3: "):
        studio.uploads.add("notes.mp3", path)
    assert not path.exists()


def test_the_oldest_sounds_are_removed(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    [first] = studio.act("draw", {"seed": 1})
    facts: dict[str, Any] = {"title": "x", "mel": first.mel, "recipe": {}, "z": first.z, "ref_db": 0.0}
    for _ in range(MOST_SOUNDS):
        last = studio.shelf.add(np.zeros(100), **facts)
    assert not first.path.exists()
    assert last.path.exists()
    monkeypatch.setattr(studio.shelf._wavs, "_most_bytes", 3 * last.path.stat().st_size)
    last = studio.shelf.add(np.zeros(100), **facts)
    assert len(list(last.path.parent.glob("*.wav"))) == 3
    with pytest.raises(UsageError, match="no longer here"):
        studio.keep(first.key)


def test_file_names_are_harmless() -> None:
    assert file_name("../a b: 30 %/ü") == "a-b-30-ü"
    assert file_name("...") == "sound"
    assert len(file_name("x" * 500)) == 60
