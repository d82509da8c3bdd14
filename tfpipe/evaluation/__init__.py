"""Measures trained models: held-out error and baselines, scores and latents of recordings, plots."""
