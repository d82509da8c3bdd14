"""A trained run as a SavedModel that TensorFlow Serving loads, checked before it gets its version number."""
