"""The page of `tfpipe browse`: the tracks of a dataset, and the spectrograms and sounds of their examples."""
