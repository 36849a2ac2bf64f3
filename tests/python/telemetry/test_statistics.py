"""Statistics of features: against numpy, and merged against the whole."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact2_edge.telemetry.dataset.statistics import (
    QUANTILES,
    ImageStatistics,
    column_statistics,
    merged,
)


@pytest.mark.parametrize("shape", [(1, 6), (7, 6), (250, 1), (40,)])
def test_columns_have_the_statistics_of_numpy(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(3.0, 20.0, shape).astype(np.float32)
    found = column_statistics(values)
    rows = values.reshape(len(values), -1).astype(np.float64)
    np.testing.assert_array_equal(found["min"], rows.min(0))
    np.testing.assert_array_equal(found["max"], rows.max(0))
    np.testing.assert_allclose(found["mean"], rows.mean(0))
    np.testing.assert_allclose(found["std"], rows.std(0))
    for name, fraction in QUANTILES.items():
        np.testing.assert_allclose(found[name], np.quantile(rows, fraction, axis=0))
    np.testing.assert_array_equal(found["count"], [len(values)])
    assert {value.shape for name, value in found.items() if name != "count"} == {rows.shape[1:]}


def test_images_have_the_statistics_of_their_pixels() -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(20, 200, (24, 32, 3)).astype(np.uint8) for _ in range(9)]
    images[3][..., 1] = 255
    statistics = ImageStatistics()
    for image in images:
        statistics.add(image)
    found = statistics.result()
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255.0
    assert all(value.shape == (3, 1, 1) for name, value in found.items() if name != "count")
    np.testing.assert_array_equal(found["count"], [9])
    for name, wanted in (
        ("min", pixels.min(0)),
        ("max", pixels.max(0)),
        ("mean", pixels.mean(0)),
        ("std", pixels.std(0)),
        *(
            (name, np.quantile(pixels, part, axis=0, method="inverted_cdf"))
            for name, part in QUANTILES.items()
        ),
    ):
        np.testing.assert_allclose(found[name].ravel(), wanted, atol=1e-12, err_msg=name)


def test_large_images_are_sampled_evenly() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, 320:] = 200
    statistics = ImageStatistics()
    statistics.add(image)
    np.testing.assert_allclose(statistics.result()["mean"].ravel(), 100 / 255, rtol=0.01)


def test_parts_merge_to_the_whole() -> None:
    values = np.random.default_rng(2).normal(size=(100, 3))
    whole = column_statistics(values)
    parts = [column_statistics(values[begin:end]) for begin, end in ((0, 10), (10, 70), (70, 100))]
    joined = merged([merged(parts[:2]), parts[2]])
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(joined[name], whole[name], err_msg=name)
    for name in QUANTILES:  # LeRobot's rule: the mean of the parts', weighted by their rows
        wanted = sum(share * part[name] for share, part in zip((0.1, 0.6, 0.3), parts, strict=True))
        np.testing.assert_allclose(joined[name], wanted, err_msg=name)
