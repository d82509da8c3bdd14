"""The embedded server: models, versions, batching, gRPC and REST."""
