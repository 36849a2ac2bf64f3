"""Splicing by executed steps: a plain Python model says which action must come next."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact2_edge.control import ChunkBuffer, Reason
from molmoact2_edge.errors import InputError


def labelled(chunk: int, observed_step: int, rows: int) -> np.ndarray:
    """Rows that say which chunk they belong to and for which step they were meant."""
    steps = observed_step + np.arange(rows, dtype=np.float64)
    return np.stack([np.full(rows, float(chunk)), steps], axis=1)


arrivals = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 25), st.integers(0, 20), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(arrivals)
def test_every_step_is_executed_once_and_by_the_newest_chunk(
    arrivals: list[tuple[int, int, int, bool]],
) -> None:
    """Each arrival: ticks since the observation before, delay of the policy, rows, whether the chunk is lost."""
    observed_at = np.cumsum([gap for gap, *_ in arrivals])
    buffer = ChunkBuffer(action_dim=2, mode="async", capacity=40)
    step, seen_step = 0, {}
    current: tuple[int, int, int] | None = None
    executed: list[int] = []
    for tick in range(int(observed_at[-1]) + 50):
        newest: tuple[int, int, int] | None = None
        for number, (tick_observed, (_, delay, rows, lost)) in enumerate(
            zip(observed_at, arrivals, strict=True)
        ):
            if tick == tick_observed:
                seen_step[number] = step
            if tick == tick_observed + delay and not lost:
                seen = seen_step[number]
                buffer.push(labelled(number, seen, rows), observed_step=seen)
                newest = (number, seen, rows)
        if newest is not None and (current is None or newest[1] >= current[1]) and sum(newest[1:]) > step:
            current = newest
        target, info = buffer.next(step)
        if current is None or current[1] + current[2] <= step:
            assert target is None
            assert info.reason != Reason.NONE
            assert info.remaining_steps == 0
            continue
        number, seen, rows = current
        assert target is not None
        assert target.tolist() == [float(number), float(step)]
        assert info.reason == Reason.NONE
        assert info.action == step - seen
        assert info.remaining_steps == seen + rows - step
        executed.append(int(target[1]))
        step += 1
    assert executed == list(range(step))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    rates=st.sampled_from(
        [(10.0, 50.0), (15.0, 50.0), (30.0, 50.0), (30.0, 100.0), (30.0, 1000.0), (50.0, 50.0)]
    ),
)
def test_resampling_is_linear_and_covers_the_chunk(rows: int, rates: tuple[float, float]) -> None:
    ratio = rates[0] / rates[1]
    actions = np.random.default_rng(rows).normal(size=(rows, 3))
    buffer = ChunkBuffer(action_dim=3, mode="async", actions_per_step=ratio)
    buffer.push(actions, observed_step=0)
    step = 0
    while True:
        target, _ = buffer.next(step)
        if target is None:
            break
        expected = [np.interp(step * ratio, np.arange(rows), actions[:, joint]) for joint in range(3)]
        np.testing.assert_allclose(target, expected, atol=1e-7)
        step += 1
    assert step == int(np.ceil(rows / ratio - 1e-6))


def test_the_case_of_the_slow_first_call_skips_nothing() -> None:
    """30 Hz, chunk of 30, 0.7 s for the first call from standstill and 0.3 s for the others."""
    buffer = ChunkBuffer(action_dim=2, mode="async")
    step, executed = 0, []
    pending: tuple[int, int] | None = (21, 0)
    number = 0
    for tick in range(200):
        if pending is not None and tick == pending[0]:
            number += 1
            buffer.push(labelled(number, pending[1], 30), observed_step=pending[1])
            pending = (tick + 9, step)
        target, _ = buffer.next(step)
        if target is not None:
            executed.append(int(target[1]))
            step += 1
    assert executed == list(range(200 - 21))


def test_a_chunk_may_be_any_kind_of_array() -> None:
    buffer = ChunkBuffer(action_dim=2)
    assert buffer.push(np.ones((3, 2), dtype=np.float32)[::-1], observed_step=0) == 1
    target, info = buffer.next(0)
    assert target is not None
    assert target.dtype == np.float64
    assert info.chunk == 1
    buffer.clear()
    assert buffer.next(0)[0] is None


@pytest.mark.parametrize("shape", [(3,), (3, 3), (2, 3, 2)])
def test_a_chunk_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"shape \(steps, 2\)"):
        ChunkBuffer(action_dim=2).push(np.zeros(shape), observed_step=0)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="at most 4 steps, got 5"):
        ChunkBuffer(action_dim=2, capacity=4).push(np.zeros((5, 2)), observed_step=0)
    with pytest.raises(InputError, match="mode"):
        ChunkBuffer(action_dim=2, mode="fast")
    with pytest.raises(InputError, match="action_dim"):
        ChunkBuffer(action_dim=0)
    with pytest.raises(InputError, match="actions_per_step"):
        ChunkBuffer(action_dim=2, actions_per_step=1.5)
