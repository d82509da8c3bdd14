"""Recordings: probing, decoding, mixing to mono, resampling, cutting windows; one module for each decoder."""
