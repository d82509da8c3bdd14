"""Finds one example of a dataset by its key. It reads only a few other records, and loads TensorFlow only for URLs."""

from __future__ import annotations

import os

from tfpipe.data.manifest import SPLITS, load_manifest
from tfpipe.data.reader import Reader
from tfpipe.data.records import Example, decode_example
from tfpipe.errors import DatasetError, translate_os_errors
from tfpipe.files.remote import is_remote


def read(data: str | os.PathLike[str], key: str) -> Example:
    """Returns the example with a key, for example one that a message of `tfpipe train` names.

    The keys of a split ascend, so a few records are read to find one among millions.

    Args:
        data: dataset folder, local or a URL that TensorFlow can read.
        key: key of the example, such as `0123456789abcdef/000000110250/shift+4`.

    Returns:
        The example, with its log-mel as uint8 codes `[n_mels, frames]`.

    Raises:
        DatasetError: there is no complete dataset, no example with this key, or a record on the way is damaged.
        TfpipeError: the folder cannot be reached.
    """
    folder, wanted = os.fspath(data), key.encode()
    manifest = load_manifest(folder)
    with translate_os_errors(folder):
        for split in filter(manifest.examples, SPLITS):
            reader = Reader(folder, manifest, split)
            if is_remote(folder):
                _use_file_system(folder, reader.shards[0].name)
            for index, shard in enumerate(reader.shards):
                # Manifests of other programs may lack the two keys: then the shard is searched.
                if shard.last and not shard.first.encode() <= wanted <= shard.last.encode():
                    continue
                low, high = 0, shard.examples
                while low < high:
                    middle = (low + high) // 2
                    example = decode_example(reader.record(index, middle), manifest.spec.mel_shape)
                    if example.key == key:
                        return example
                    low, high = (middle + 1, high) if example.key.encode() < wanted else (low, middle)
    raise DatasetError(f"{folder}: no example has the key {key!r}; `make_dataset` gives the keys that there are")


def _use_file_system(folder: str, shard: str) -> None:
    from tfpipe.data.file_systems import use_file_system  # loads TensorFlow

    use_file_system(folder, shard=shard)
