"""The five modes, in both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_edge.checkpoint import Stats
from molmoact2_edge.checkpoint.norm_stats import NORM_MODES
from molmoact2_edge.errors import InputError
from molmoact2_edge.processor import SO100_SO101, JointConvention, joint_convention
from molmoact2_edge.processor.normalization import normalize, unnormalize

VALUES: dict[str, Any] = {
    "q01": [-10.0, 0.0, 3.0, -1.0], "q99": [10.0, 4.0, 3.0, 1.0],
    "q10": [-5.0, 1.0, 3.0, -1.0], "q90": [5.0, 3.0, 3.0, 1.0],
    "min": [-20.0, 0.0, 3.0, -1.0], "max": [20.0, 8.0, 3.0, 1.0],
    "mean": [1.0, 2.0, 3.0, 0.0], "std": [2.0, 0.5, 0.0, 1.0],
    "mask": [True, True, True, False],
}  # fmt: skip


def stats(mode: str, **changes: Any) -> Stats:
    values = {key: value for key, value in {**VALUES, **changes}.items() if value is not None}
    return Stats.from_json(values, "test", mode)


def row(*numbers: float) -> Any:
    return np.array(numbers, np.float32)


NORMALIZED = {
    "q01_q99": [0.5, -0.5, 0, 7],
    "q10_q90": [1, -1, 0, 7],
    "min_max": [0.25, -0.75, 0, 7],
    # (3.5 - 3) / 1e-6: a deviation of 0 counts as 1e-6, nothing is clipped, nothing is constant
    "mean_std": [2, -2, 5e5, 7],
    "none": [5, 1, 3.5, 7],
}


@pytest.mark.parametrize("mode", NORM_MODES)
def test_normalize(mode: str) -> None:
    """Inside, at the clip, constant, masked."""
    result = normalize(row(5, 1, 3.5, 7), stats(mode), mode)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, NORMALIZED[mode], rtol=1e-6)


@pytest.mark.parametrize("mode", ["q01_q99", "q10_q90", "min_max"])
def test_out_of_range_is_clipped_except_where_masked(mode: str) -> None:
    assert normalize(row(1e6, -1e6, 1e6, -1e6), stats(mode), mode).tolist() == [1, -1, 0, -1e6]


def test_constant_dimension_is_zero_even_where_masked() -> None:
    constant = {"mask": [True, True, False, False]}
    assert normalize(row(0, 0, 9, 9), stats("q01_q99", **constant), "q01_q99").tolist() == [0, -1, 0, 9]


def test_without_min_and_max_no_dimension_is_constant() -> None:
    result = normalize(row(0, 0, 3, 0), stats("q01_q99", min=None, max=None), "q01_q99")
    assert result.tolist() == [0, -1, -1, 0]


UNNORMALIZED = {
    "q01_q99": [5, 0, 3, 1],
    "q10_q90": [2.5, 1, 3, 1],
    "min_max": [10, 0, 3, 1],
    "mean_std": [2, 0.5, 3, 7],
    "none": [0.5, -3, 0.2, 7],
}


@pytest.mark.parametrize("mode", NORM_MODES)
def test_unnormalize(mode: str) -> None:
    """Inside, clipped, constant, masked: the last is clipped too, except in the modes that never clip."""
    result = unnormalize(row(0.5, -3, 0.2, 7), stats(mode), mode)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, UNNORMALIZED[mode], rtol=1e-6)


numbers = st.floats(-1, 1, width=32)


@given(
    mode=st.sampled_from(sorted(NORM_MODES)),
    chunk=st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=4),
    low=st.lists(st.floats(-100, 100), min_size=3, max_size=3),
    spread=st.lists(st.floats(0.1, 100), min_size=3, max_size=3),
    mask=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_round_trip(mode: str, chunk: Any, low: list[float], spread: list[float], mask: list[bool]) -> None:
    high = [a + b for a, b in zip(low, spread, strict=True)]
    values = dict.fromkeys(("q01", "q10", "min", "mean"), low) | dict.fromkeys(("q99", "q90", "max"), high)
    one = Stats.from_json({**values, "std": spread, "mask": mask}, "test", mode)
    original = np.array(chunk, np.float32)
    # float32 carries 1e-7 of the largest number on the way, at most 200, over a range of at least 0.1.
    np.testing.assert_allclose(normalize(unnormalize(original, one, mode), one, mode), original, atol=1e-3)


def test_so100_convention() -> None:
    robot = row(1, 2, 3, 4, 5, 6)
    model = SO100_SO101.to_model(robot)
    assert model.tolist() == [1, 88, 93, 4, 5, 6]
    assert SO100_SO101.from_model(model).tolist() == robot.tolist()
    assert joint_convention("so100_so101") is SO100_SO101
    assert joint_convention("none") is None


@given(st.lists(st.lists(st.floats(-180, 180, width=32), min_size=6, max_size=6), min_size=1, max_size=3))
def test_convention_round_trip(joints: Any) -> None:
    array = np.array(joints, np.float32)
    np.testing.assert_allclose(SO100_SO101.from_model(SO100_SO101.to_model(array)), array, atol=1e-4)


def test_convention_refuses() -> None:
    with pytest.raises(InputError, match="6 joints"):
        SO100_SO101.to_model(np.zeros(5, np.float32))
    with pytest.raises(InputError, match="6 numbers"):
        SO100_SO101.to_model(["a"] * 6)
    with pytest.raises(InputError, match="1 or -1"):
        JointConvention((2.0,), (0.0,))
    with pytest.raises(InputError, match="offsets"):
        JointConvention((1.0,), ())
    with pytest.raises(InputError, match="so100_so101"):
        joint_convention("so102")
