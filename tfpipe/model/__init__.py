"""The VAE: presets, networks, losses, and the numeric precision that it computes in."""
