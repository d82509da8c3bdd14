"""Writes a trained run as a SavedModel that TensorFlow Serving loads, and checks it before it gets a version number."""
