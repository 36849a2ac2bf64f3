"""Which rows of a chunk are frozen, how firmly the rest is held, and how long a call is taken to last."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_edge.config import RealTimeChunkingConfig
from molmoact2_edge.runtime.realtime_chunking import CallDelay, ChunkContinuation, soft_mask


def continuation(
    delay_s: float | None,
    *,
    due: int = 0,
    chunk_rate: float = 30.0,
    loop_rate: float = 30.0,
    mask_s: float = 0.2,
) -> ChunkContinuation:
    delay = CallDelay(0.9)
    if delay_s is not None:
        delay.add(delay_s)
    return ChunkContinuation(
        RealTimeChunkingConfig(delay_quantile=0.9, mask="linear", mask_s=mask_s, tolerance=1.0),
        loop_rate_hz=loop_rate,
        chunk_rate_hz=chunk_rate,
        first_action_due=due,
        delay=delay,
    )


def test_the_first_call_counts_only_until_there_is_another() -> None:
    delay = CallDelay(0.9)
    assert delay.seconds is None
    delay.add(0.7)
    assert delay.seconds == 0.7
    delay.add(0.3)
    assert delay.seconds == 0.3
    delay.restart()
    delay.add(5.0)
    assert delay.seconds == 0.3


@pytest.mark.parametrize("slow", [1, 2])
def test_few_slow_calls_do_not_count_and_more_do(slow: int) -> None:
    delay = CallDelay(0.9)
    for seconds in [9.0] + [0.3] * (20 - slow) + [2.0] * slow:
        delay.add(seconds)
    assert delay.seconds == 0.3
    for _ in range(2):
        delay.add(2.0)
    assert delay.seconds == 2.0


@given(st.lists(st.floats(0.01, 5.0), min_size=2, max_size=60), st.floats(0.01, 1.0))
def test_the_estimate_is_one_of_the_recent_calls_and_the_largest_only_if_asked(
    seconds: list[float], quantile: float
) -> None:
    delay = CallDelay(quantile)
    for value in seconds:
        delay.add(value)
    recent = sorted(seconds[1:][-20:])
    assert delay.seconds in recent
    shorter = sum(value <= delay.seconds for value in recent) if delay.seconds else 0
    assert shorter >= math.floor(quantile * (len(recent) - 1)) + 1
    if quantile == 1.0:
        assert delay.seconds == recent[-1]


@pytest.mark.parametrize("shape", ["linear", "exponential"])
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30))
def test_weights_fall_from_one_to_zero_where_they_should(
    shape: str, frozen: int, soft: int, rows: int
) -> None:
    weights = soft_mask(frozen, soft, rows, shape)
    assert weights.shape == (rows,)
    assert (weights[:frozen] == 1.0).all()
    assert (weights[frozen + soft :] == 0.0).all()
    between = weights[frozen : frozen + soft]
    assert ((between > 0.0) & (between < 1.0)).all()
    assert (np.diff(weights) <= 0.0).all()


def test_the_shapes_are_those_of_the_paper() -> None:
    np.testing.assert_allclose(soft_mask(2, 3, 7, "linear"), [1, 1, 0.75, 0.5, 0.25, 0, 0])
    c = np.array([0.75, 0.5, 0.25])
    expected = c * (np.exp(c) - 1) / (np.e - 1)
    np.testing.assert_allclose(soft_mask(2, 3, 7, "exponential"), [1, 1, *expected, 0, 0])


@pytest.mark.parametrize(
    ("delay_s", "loop_rate", "chunk_rate", "rows"),
    [
        # 9 steps and the tick that takes the chunk: rows 0 to 10 are in force before it, or meet it.
        (0.3, 30.0, 30.0, 11),
        # 15 + 1 steps of 50 Hz are 9.6 rows of 30 Hz: rows 0 to 10 again.
        (0.3, 50.0, 30.0, 11),
        (0.3, 30.0, 10.0, 5),
        (0.001, 50.0, 50.0, 3),
        (None, 30.0, 30.0, 0),
    ],
)
def test_the_rows_in_force_until_the_switch_are_frozen(
    delay_s: float | None, loop_rate: float, chunk_rate: float, rows: int
) -> None:
    assert continuation(delay_s, chunk_rate=chunk_rate, loop_rate=loop_rate).frozen_rows() == rows


@given(st.floats(0.0, 2.0), st.sampled_from([(30.0, 30.0), (50.0, 30.0), (100.0, 15.0), (200.0, 10.0)]))
def test_no_interpolated_target_up_to_the_switch_needs_a_row_that_is_not_frozen(
    delay_s: float, rates: tuple[float, float]
) -> None:
    loop_rate, chunk_rate = rates
    frozen = continuation(delay_s, chunk_rate=chunk_rate, loop_rate=loop_rate).frozen_rows()
    # A chunk that arrives within the delay is taken at the first tick after it.
    last_step = math.floor(delay_s * loop_rate) + 1
    assert math.ceil(round(last_step * chunk_rate / loop_rate, 9)) <= frozen - 1


@pytest.mark.parametrize("due", [0, 1])
def test_the_guide_begins_with_what_is_due_at_the_chunks_first_row(due: int) -> None:
    planned = np.arange(20.0)[:, None] * np.ones((1, 6))
    guide = continuation(0.3, due=due, mask_s=0.1).guide(planned)
    assert guide.actions[0, 0] == due
    assert int(np.sum(guide.weights == 1.0)) == 11 - due
    assert len(guide.actions) == 11 - due + 3  # 0.1 s of soft rows; rows without weight are left out
    assert guide.weights[-1] > 0.0


def test_a_plan_that_ends_early_freezes_what_it_has() -> None:
    guide = continuation(0.3).guide(np.zeros((4, 6)))
    np.testing.assert_array_equal(guide.weights, np.ones(4))
    assert continuation(0.3, due=1).guide(np.zeros((1, 6))).actions.shape == (0, 6)
    assert continuation(0.3).guide(np.empty((0, 6))).actions.shape == (0, 6)


def test_before_the_first_call_nothing_is_frozen() -> None:
    guide = continuation(None, mask_s=0.1).guide(np.zeros((10, 6)))
    assert guide.weights.max() < 1.0
