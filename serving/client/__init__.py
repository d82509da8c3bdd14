"""The client of a served model: NumPy in, NumPy out, no TensorFlow."""
