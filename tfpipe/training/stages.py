"""The two stages of a run, the autoencoder and its prior, and whether they are finished. Loads no TensorFlow."""

from __future__ import annotations

from tfpipe.data.manifest import load_manifest
from tfpipe.training.config import FLOW, TrainConfig
from tfpipe.training.prior_folder import PRIOR, prior_is_trained, prior_settings, require_same_settings
from tfpipe.training.run_folder import Run, trained


def finished(config: TrainConfig) -> Run | None:
    """Returns the run in the folder if all its stages have finished with these settings, else None.

    Raises:
        DatasetError: no dataset.
        RunError: the folder holds a run with other settings.
    """
    run = finished_autoencoder(config)
    if run is None or config.prior != FLOW:
        return run
    if not prior_is_trained(run.path):
        return None
    require_same_settings(run.path / PRIOR, prior_settings(config, load_manifest(config.data)))
    return run


def finished_autoencoder(config: TrainConfig) -> Run | None:
    """Returns the run in the folder if its autoencoder is trained with these settings, else None.

    Raises:
        DatasetError: no dataset.
        RunError: the folder holds a run with other settings.
    """
    return trained(config, load_manifest(config.data))
