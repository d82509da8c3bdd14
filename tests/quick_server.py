"""A server whose model is a Python function, for tests that need no TensorFlow."""

import contextlib
from pathlib import Path

import numpy as np
from serving_tools import serving

from serving.protocol import protos
from serving.server.models import loaded_model
from serving.server.models.loaded_model import LoadedModel
from serving.server.models.signature import Signature


def definition(**sizes):
    """Returns a SignatureDef with the float input `x` and the float output `y` of these sizes; -1 is any."""
    found = protos.SignatureDef(method_name="tensorflow/serving/predict")
    for infos, alias in ((found.inputs, "x"), (found.outputs, "y")):
        infos[alias].dtype = 1
        for size in sizes[alias]:
            infos[alias].tensor_shape.dim.add(size=size)
    return found


def double(inputs):
    return {"y": 2 * inputs["x"]}


@contextlib.contextmanager
def quick_server(folder: Path, monkeypatch, *, run=double, **settings):
    """Yields a server and a `Caller` of it; its signatures `double` and `any` double rows, and arrays of any shape."""

    def load(path, *, version, limits, queue, batching, **_):
        signatures = {
            "double": Signature(definition(x=[-1, 3], y=[-1, 3]), run, limits=limits, queue=queue, batching=batching),
            "any": Signature(
                definition(x=[-1], y=[1]), lambda inputs: {"y": inputs["x"][:1]}, limits=limits, queue=queue
            ),
        }
        return LoadedModel(version=version, signatures=signatures, limits=limits)

    monkeypatch.setattr(loaded_model.LoadedModel, "load", load)
    (folder / "1").mkdir(exist_ok=True)
    with serving(folder, grace_s=2, **settings) as served:
        yield served


ROW = np.ones((1, 3), np.float32)
