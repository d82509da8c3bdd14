"""tfpipe: from a folder of recordings to a served generative model.

>>> import tfpipe as tp
>>> tp.preprocess("recordings", "data", semitones=(0, 4, 7))
>>> run = tp.train("data", "run")
>>> tp.evaluate("data", "run")["mse"]
>>> tp.export(run, "models/vae")
>>> rebuilt = tp.load("models/vae").rebuild_file("song.wav")
>>> with tp.serve("models/vae") as server, tp.Client(server.address) as vae:
...     audio = vae.decode_audio(vae.generate([1, 2, 3]).z, ref_db=[9.0] * 3)

`tp.run("recordings", "work")` does all of it, and continues where it was stopped. The functions have the names of the
`tfpipe` commands. Importing this package loads no TensorFlow; a function loads what it needs when it is called.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tfpipe import errors

if TYPE_CHECKING:
    from beam_jobs.config import PreprocessConfig
    from serving.client.client import Client
    from serving.export.own_networks import export_networks
    from serving.server.config import ServerConfig
    from tfpipe.api import (
        evaluate,
        export,
        inspect,
        load,
        make_dataset,
        preprocess,
        report,
        score,
        serve,
        train,
        verify,
    )
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.data.lookup import read
    from tfpipe.features.log_mel import log_mel
    from tfpipe.spec import FeatureSpec
    from tfpipe.training.config import TrainConfig
    from tfpipe.workflow.chain import run
    from tfpipe.workflow.vocoder import train_vocoder

__version__ = "0.1.0"
__all__ = [
    "AugmentConfig",
    "Client",
    "FeatureSpec",
    "PreprocessConfig",
    "ServerConfig",
    "TrainConfig",
    "errors",
    "evaluate",
    "export",
    "export_networks",
    "inspect",
    "load",
    "log_mel",
    "make_dataset",
    "preprocess",
    "read",
    "report",
    "run",
    "score",
    "serve",
    "train",
    "train_vocoder",
    "verify",
]
# Where each public name is defined; it is imported when it is first used. A test holds this equal to the imports above.
_HOMES = {
    "AugmentConfig": "tfpipe.data.augmentation",
    "Client": "serving.client.client",
    "FeatureSpec": "tfpipe.spec",
    "PreprocessConfig": "beam_jobs.config",
    "ServerConfig": "serving.server.config",
    "TrainConfig": "tfpipe.training.config",
    "evaluate": "tfpipe.api",
    "export": "tfpipe.api",
    "export_networks": "serving.export.own_networks",
    "inspect": "tfpipe.api",
    "load": "tfpipe.api",
    "log_mel": "tfpipe.features.log_mel",
    "make_dataset": "tfpipe.api",
    "preprocess": "tfpipe.api",
    "read": "tfpipe.data.lookup",
    "report": "tfpipe.api",
    "run": "tfpipe.workflow.chain",
    "score": "tfpipe.api",
    "serve": "tfpipe.api",
    "train": "tfpipe.api",
    "train_vocoder": "tfpipe.workflow.vocoder",
    "verify": "tfpipe.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfpipe' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
