"""A model's folder is read in the same way on a local disk and at a URL of TensorFlow's file systems."""

import subprocess
import sys

import pytest
from helpers import environment

from serving.protocol.names import WARMUP_FILE
from serving.server.models import model_files
from tfpipe.errors import ServingError


@pytest.fixture(params=["local", "url"])
def folder(request, tmp_path):
    """A folder with the versions 1 and 20, a file named 3 and other folders."""
    for name in ("1/variables", "20/assets.extra", "text", "-1"):
        (tmp_path / "m" / name).mkdir(parents=True)
    for name in ("3", "1/saved_model.pb", "1/variables/variables.index", "20/assets.extra/tf_serving_warmup_requests"):
        (tmp_path / "m" / name).write_text(f"content of {name}")
    if request.param == "local":
        return tmp_path / "m"
    import tensorflow as tf

    url = f"ram://{tmp_path.name}"
    for path in sorted((tmp_path / "m").rglob("*")):
        target = f"{url}/{path.relative_to(tmp_path / 'm')}"
        if path.is_dir():
            tf.io.gfile.makedirs(target)
        else:
            tf.io.gfile.copy(str(path), target)
    return url


def test_versions_and_their_files(folder):
    versions = model_files.versions_in(folder)
    assert sorted(versions) == [1, 20]
    first, second = versions[1], versions[20]
    assert model_files.read(first, "saved_model.pb") == b"content of 1/saved_model.pb"
    assert model_files.read(first, "saved_model.pbtxt") is None
    assert model_files.is_file(first, "variables/variables.index")
    with model_files.local_copy(second, WARMUP_FILE) as path:
        assert path.read_text() == f"content of 20/{WARMUP_FILE}"
    with model_files.local_copy(first, WARMUP_FILE) as path:
        assert not path.exists()


def test_the_fingerprint_of_a_version_changes_with_its_files(folder):
    import tensorflow as tf

    version = model_files.versions_in(folder)[1]
    before = model_files.fingerprint(version)
    assert before is not None
    assert model_files.fingerprint(version) == before
    with tf.io.gfile.GFile(f"{version}/variables/variables.data-00000-of-00001", "w") as file:
        file.write("more")
    assert model_files.fingerprint(version) != before


def test_a_folder_that_is_not_there_cannot_be_read(tmp_path):
    for missing in (tmp_path / "nowhere", "ram://nowhere/at/all"):
        with pytest.raises(OSError, match=r".+"):
            model_files.versions_in(missing)


def test_urls_are_told_from_local_paths(tmp_path):
    assert model_files.is_url("gs://bucket/models")
    assert not any(map(model_files.is_url, ("models/vae", "/a://b", tmp_path)))
    model_files.require_readable("gs://bucket/models")
    with pytest.raises(ServingError, match=r"nfs://models/toy: TensorFlow as installed here reads folders of .*gs://"):
        model_files.require_readable("nfs://models/toy")


def test_tensorflow_is_imported_without_keras_which_still_works_afterwards():
    code = (
        "import os, sys\n"
        "from serving.server.models.model_files import import_tensorflow\n"
        "tf = import_tensorflow()\n"
        "print('keras' in sys.modules, 'TF_USE_LEGACY_KERAS' in os.environ)\n"
        "print(tf.keras.__version__[0], tf.keras.layers.Dense(2)(tf.ones([1, 3])).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.splitlines() == ["False False", "3 (1, 2)"], done.stderr
