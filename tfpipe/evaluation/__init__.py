"""Judging a trained model: held-out error beside baselines, recordings scored one by one, plots."""
