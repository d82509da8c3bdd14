"""Training: settings, the loop and its step, checkpoints, the run folder, several devices and workers."""
