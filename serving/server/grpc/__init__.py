"""The gRPC port: the compiled server, and one in Python."""
