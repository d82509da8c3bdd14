"""Checks of a running server: whether it speaks TensorFlow Serving's API, and whether its model answers."""
