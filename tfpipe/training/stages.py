"""The two stages of a run, the autoencoder and its prior, and whether they are finished. Loads no TensorFlow."""

from __future__ import annotations

from tfpipe.data.manifest import load_manifest
from tfpipe.training.config import FLOW, TrainConfig
from tfpipe.training.prior_folder import prior_is_trained
from tfpipe.training.run_folder import Run, trained


def finished(config: TrainConfig) -> Run | None:
    """Returns the run in the folder if all its stages have finished with these settings, else None.

    Raises:
        DatasetError: no dataset.
        RunError: the folder holds a run with other settings.
    """
    run = finished_autoencoder(config)
    if run is None or (config.prior == FLOW and not prior_is_trained(run.path)):
        return None
    return run


def finished_autoencoder(config: TrainConfig) -> Run | None:
    """Returns the run in the folder if its autoencoder is trained with these settings, else None.

    Raises:
        DatasetError: no dataset.
        RunError: the folder holds a run with other settings.
    """
    return trained(config, load_manifest(config.data))
