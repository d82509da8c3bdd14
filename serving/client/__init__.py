"""The client of a served model: NumPy arrays in and out, without TensorFlow."""
