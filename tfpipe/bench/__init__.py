"""`tfpipe bench`: the speed of each part as a ratio against a named baseline, measured in one run."""
