"""The report of a run: one HTML page with figures, pictures and sounds, which opens from disk without a network.

`contents` gathers what the page shows (it needs TensorFlow), `page` writes the HTML, and `report` does both. The other
modules make the parts: sounds, spectrograms, curves and the map of windows.
"""
