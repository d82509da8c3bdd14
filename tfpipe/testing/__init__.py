"""A small corpus of synthesised recordings, for demos and tests."""
