"""What demos and tests need: a small corpus of synthesised recordings."""
