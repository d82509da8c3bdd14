"""tfpipe: from a folder of recordings to a served generative model.

The core package: feature spec, features, records, input pipeline, model,
training, evaluation and the command line. Importing it is cheap; modules that
need TensorFlow say so in their first line.
"""

__version__ = "0.1.0"
