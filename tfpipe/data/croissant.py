"""Describes a dataset in Croissant, the JSON-LD vocabulary by which catalogues and search engines know datasets.

The description says which files there are, what a record is, and what is known of each track. Format: MLCommons
Croissant 1.0 (docs.mlcommons.org/croissant). The records themselves are `tf.train.Example`, which Croissant cannot
take apart, so their fields are described in words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfpipe.data.manifest import SKIPPED, SPLITS, TRACKS, Manifest

CROISSANT = "croissant.json"
_CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
# The prefixes and terms that the format asks every file to begin with.
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "equivalentProperty": "cr:equivalentProperty",
    "samplingRate": "cr:samplingRate",
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
# The columns of `tracks.jsonl`: type and meaning.
_TRACK: Mapping[str, tuple[str, str]] = {
    "path": ("sc:Text", "where the recording was found, below the input folder"),
    "hash": ("sc:Text", "SHA-256 of the recording's file, hex; keys of examples begin with its first 16 digits"),
    "label": ("sc:Text", "name of the label"),
    "split": ("sc:Text", "train, validation or test"),
    "seconds": ("sc:Float", "length of the recording in s"),
    "windows": ("sc:Integer", "number of windows that were kept"),
    "silent": ("sc:Integer", "number of windows that were left out because they are silent"),
    "variants": ("sc:Integer", "number of examples that were made of each window"),
    "unused_s": ("sc:Float", "seconds that lie in no window"),
    "group": ("sc:Text", "name of the group, or empty; all tracks of a group lie in one split"),
}


def describe(manifest: Manifest, *, files: Mapping[str, tuple[int, str]]) -> bytes:
    """Returns the content of `croissant.json`; the same dataset always gives the same bytes.

    Args:
        manifest: the dataset's manifest.
        files: size in bytes and SHA-256 of `tracks.jsonl` and of `skipped.jsonl`, by name.
    """
    document = {
        "@context": dict(_CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": f"tfpipe-{manifest.fingerprint}",
        "version": "1.0.0",
        "description": _about(manifest),
        "keywords": ["audio", "log-mel spectrogram", "TFRecord", *manifest.labels],
        "distribution": [
            *(_shards(split) for split in SPLITS if manifest.examples(split)),
            *(_lines(name, *files[name]) for name in (TRACKS, SKIPPED)),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "tracks",
                "description": "One record for each recording.",
                "key": {"@id": "tracks/hash"},
                "field": [_field(name, kind, about) for name, (kind, about) in _TRACK.items()],
            }
        ],
    }
    return (json.dumps(document, indent=2, ensure_ascii=True) + "\n").encode()


def _about(manifest: Manifest) -> str:
    spec, counts = manifest.spec, ", ".join(f"{split} {manifest.examples(split)}" for split in SPLITS)
    mels, frames = spec.mel_shape
    return (
        f"Log-mel spectrograms of windows of {spec.window_s:g} s of recordings, and augmented variants of them. "
        f"Examples: {counts}. Labels: {', '.join(manifest.labels)}. Each record of the .tfrecord files is a "
        f"tf.train.Example: mel ({mels} x {frames} uint8 codes, {mels} bands from {spec.fmin:g} to {spec.fmax:g} Hz, "
        f"{spec.top_db:g} dB below the loudest point), ref_db (level of that point in dB), label (index into the "
        "labels), track (SHA-256 of the recording), start_s (start of the window in s), variant, and key."
    )


def _shards(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": split,
        "name": split,
        "description": f"The shards of the split {split}; dataset.json holds the size and the SHA-256 of each.",
        "encodingFormat": "application/x-tfrecord",
        "includes": f"{split}-*.tfrecord",
    }


def _lines(name: str, size: int, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": "application/jsonlines",
        "sha256": sha256,
    }


def _field(name: str, kind: str, about: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"tracks/{name}",
        "name": name,
        "description": about,
        "dataType": kind,
        "source": {"fileObject": {"@id": TRACKS}, "extract": {"column": name}},
    }
