"""The HTTP port: the REST API of TensorFlow Serving, pages for people, and streams."""
