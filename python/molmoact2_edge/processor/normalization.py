"""Scaling of states and actions to [-1, 1] and back, in float32 as the public implementation computes it."""

from __future__ import annotations

import numpy as np

from molmoact2_edge.checkpoint.norm_stats import NORM_MODES, Stats
from molmoact2_edge.types import FloatArray

_SMALLEST_RANGE = np.float32(1e-6)


def normalize(vector: FloatArray, stats: Stats, norm_mode: str) -> FloatArray:
    """Raw units (..., D) to the model's; masked dimensions pass through, those whose min equals max become 0.

    `mean_std` neither clips nor knows constant dimensions; `none` changes nothing.
    """
    if norm_mode == "none":
        return vector.astype(np.float32)
    first, second = (stats.values[key] for key in NORM_MODES[norm_mode])
    if norm_mode == "mean_std":
        scaled = (vector - first) / np.maximum(second, _SMALLEST_RANGE)
        return np.where(stats.mask, scaled, vector).astype(np.float32)
    scaled = 2 * (vector - first) / np.maximum(second - first, _SMALLEST_RANGE) - 1
    scaled = np.where(stats.mask, np.clip(scaled, -1, 1), vector)
    if "min" in stats.values and "max" in stats.values:
        scaled = np.where(stats.values["min"] == stats.values["max"], 0, scaled)
    return scaled.astype(np.float32)


def unnormalize(vector: FloatArray, stats: Stats, norm_mode: str) -> FloatArray:
    """The model's units (..., D) to raw ones; masked dimensions pass through, but after the clip to [-1, 1]."""
    if norm_mode == "none":
        return vector.astype(np.float32)
    first, second = (stats.values[key] for key in NORM_MODES[norm_mode])
    if norm_mode == "mean_std":
        return np.where(stats.mask, vector * second + first, vector).astype(np.float32)
    clipped = np.clip(vector, -1, 1)
    raw = (clipped + 1) * (second - first) / 2 + first
    return np.where(stats.mask, raw, clipped).astype(np.float32)
