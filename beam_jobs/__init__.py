"""The Beam job: audio files to augmented, sharded TFRecords and a manifest. Imports tfpipe, never serving."""
