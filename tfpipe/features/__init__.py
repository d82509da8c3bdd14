"""Log-mel features in NumPy (the definition) and in a TensorFlow graph, and their inversion to audio."""
