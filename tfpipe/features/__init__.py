"""Log-mel features: the definition in NumPy, the same in a TensorFlow graph, and the way back to sound."""
