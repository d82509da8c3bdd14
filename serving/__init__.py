"""Export, server and client for the TensorFlow Serving API. Imports tfpipe, never beam_jobs."""
