"""A small corpus of synthesised recordings, for demos and tests."""

# Tracks of each label, and length of a track in s, unless others are asked for.
TRACKS, SECONDS = 6, 14.0
