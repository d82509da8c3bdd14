"""The Beam job: makes a dataset folder (sharded log-mel TFRecords and a manifest) from audio files.

`job.preprocess` runs it. The steps, in order: `corpus` (and `lists`) finds the
files, `scan` reads each one, `plan` decides splits and shards, `shards` writes
them, with the variants that `engines` computes. Imports tfpipe, never serving.
"""
