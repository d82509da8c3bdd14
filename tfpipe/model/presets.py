"""What a training may choose from, by name. Loads no TensorFlow."""

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
JIT_COMPILE = ("auto", "on", "off")
