"""Models of the server: versions in folders, loading, signatures, batches, and running them."""
