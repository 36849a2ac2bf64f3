"""Statistics of an episode's features as LeRobotDataset keeps them, and of a dataset from those of its episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from molmoact2_edge.types import Image

FeatureStatistics: TypeAlias = dict[str, npt.NDArray[Any]]
"""``min max mean std q01 q10 q50 q90 q99``, each in the feature's shape, (3, 1, 1) for images, and ``count`` (1,)."""

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_FINE_ENOUGH = 150  # pixels: larger images are looked at in a grid about this wide


def column_statistics(values: npt.NDArray[Any]) -> FeatureStatistics:
    """Return statistics of (rows, dim) or (rows,) values; the result has shape (dim,) or (1,)."""
    rows = values.reshape(len(values), -1)
    quantiles = np.quantile(rows.astype(np.float64), list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0, dtype=np.float64),
        "std": rows.std(axis=0, dtype=np.float64),
        "count": np.array([len(rows)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


class ImageStatistics:
    """Counts the 256 values of each channel, so that every statistic is exact for the pixels looked at."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), dtype=np.int64)
        self._images = 0

    def add(self, image: Image) -> None:
        """Take in an (H, W, 3) image."""
        stride = max(1, max(image.shape[:2]) // _FINE_ENOUGH)
        pixels = image[::stride, ::stride]
        for channel in range(3):
            self._counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
        self._images += 1

    def result(self) -> FeatureStatistics:
        """Return statistics of values scaled to 0..1; at least one image must have been added."""
        values = np.arange(256) / 255.0
        total = self._counts.sum(axis=1)
        mean = self._counts @ values / total
        variance = self._counts @ values**2 / total - mean**2
        cumulated = self._counts.cumsum(axis=1)
        present = self._counts > 0
        statistics = {
            "min": values[present.argmax(axis=1)],
            "max": values[255 - present[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(variance, 0.0)),
        }
        for name, fraction in QUANTILES.items():
            ranks = np.maximum(np.ceil(fraction * total), 1)
            statistics[name] = values[(cumulated >= ranks[:, None]).argmax(axis=1)]
        shaped: FeatureStatistics = {name: value.reshape(3, 1, 1) for name, value in statistics.items()}
        shaped["count"] = np.array([self._images])
        return shaped


def merged(parts: Sequence[Mapping[str, npt.NDArray[Any]]]) -> FeatureStatistics:
    """Return the statistics of a feature over all ``parts``.

    Quantiles become the mean of the parts' quantiles, weighted by count, as LeRobot does it: exact ones would need
    the data again.
    """
    counts = np.array([int(part["count"][0]) for part in parts], dtype=np.float64)
    weights = counts / counts.sum()

    def weighted(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(sum(w * np.asarray(part[name]) for w, part in zip(weights, parts, strict=True)))

    mean = weighted("mean")
    variance = sum(
        w * (np.asarray(part["std"]) ** 2 + (np.asarray(part["mean"]) - mean) ** 2)
        for w, part in zip(weights, parts, strict=True)
    )
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([int(counts.sum())]),
        **{name: weighted(name) for name in QUANTILES},
    }
