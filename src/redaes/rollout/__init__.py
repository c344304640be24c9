"""Rollouts: K sampled completions for each prompt, with the log-probabilities of the sampling pass."""
