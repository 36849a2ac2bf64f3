"""Checkpoint reading: configuration, statistics and weights, checked before use, nothing executed."""
