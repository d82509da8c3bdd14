"""`tfpipe bench`: measures the speed of each part, as a ratio to a named baseline that the same run measures."""
