"""The gate keeps its limits whatever comes in; figures are differences of commands, as an observer would take them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact2_edge.control import GateState, JointLimits, Reason, SafetyGate
from molmoact2_edge.errors import InputError

PERIOD_S = 0.01


def limits(
    joints: int = 2,
    reach: float = 100.0,
    velocity: float = 90.0,
    acceleration: float = 400.0,
    jump: float = 30.0,
) -> JointLimits:
    row = np.ones(joints)
    return JointLimits(-reach * row, reach * row, velocity * row, acceleration * row, jump * row)


class Observer:
    """Steps a gate and checks each command against the limits, without a tolerance."""

    def __init__(self, bounds: JointLimits, start: np.ndarray, period_s: float = PERIOD_S) -> None:
        self.gate = SafetyGate(bounds, period_s=period_s)
        self.bounds, self.period_s = bounds, period_s
        self.reset(start)

    def reset(self, measured: np.ndarray) -> None:
        self.gate.reset(measured)
        self.command = self.gate.last.command
        self.velocity = np.zeros(len(self.bounds))

    def step(self, target: np.ndarray | None, measured: np.ndarray | None = None) -> None:
        result = self.gate.step(target, measured)
        bounds = self.bounds
        assert np.isfinite(result.command).all()
        assert (result.command >= bounds.position_min).all()
        assert (result.command <= bounds.position_max).all()
        velocity = (result.command - self.command) / self.period_s
        assert (np.abs(velocity) <= bounds.velocity_max).all()
        assert (np.abs(velocity - self.velocity) / self.period_s <= bounds.acceleration_max).all()

        reference = self.command if measured is None else measured
        self._check_reason(target, measured, reference, result.state, result.reason, result.followed)
        if not result.followed:
            # Decelerating: no joint gets faster, none turns round.
            assert (np.abs(velocity) <= np.abs(self.velocity) + 1e-9).all()
            assert (velocity * self.velocity >= -1e-9).all()
        self.command, self.velocity = result.command, velocity

    def _check_reason(
        self,
        target: np.ndarray | None,
        measured: np.ndarray | None,
        reference: np.ndarray,
        state: GateState,
        reason: Reason,
        followed: bool,
    ) -> None:
        if state in (GateState.FAULT, GateState.IDLE, GateState.STOPPING):
            assert not followed
            assert reason != Reason.NONE
        elif target is not None and not np.isfinite(target).all():
            assert (state, reason) == (GateState.HOLDING, Reason.TARGET_NOT_FINITE)
        elif measured is not None and not np.isfinite(measured).all():
            assert (state, reason) == (GateState.HOLDING, Reason.MEASURED_NOT_FINITE)
        elif target is None:
            assert (state, reason) == (GateState.HOLDING, Reason.WAITING_FOR_CHUNK)
        else:
            bounded = np.clip(target, self.bounds.position_min, self.bounds.position_max)
            jumps = bool((np.abs(bounded - reference) > self.bounds.jump_max).any())
            assert (reason == Reason.JUMP) == jumps
            assert followed == (not jumps)
            assert state == (GateState.HOLDING if jumps else GateState.RUNNING)


positions = st.floats(-150.0, 150.0)
wild = st.one_of(positions, positions, st.floats(allow_nan=True, allow_infinity=True))
events = st.one_of(
    st.tuples(st.just("step"), st.lists(wild, min_size=2, max_size=2), st.integers(1, 30)),
    st.tuples(st.just("near"), st.lists(st.floats(-25.0, 25.0), min_size=2, max_size=2), st.integers(1, 30)),
    st.tuples(st.just("measured"), st.lists(wild, min_size=2, max_size=2), st.integers(1, 5)),
    st.tuples(st.just("missing"), st.none(), st.integers(1, 30)),
    st.tuples(st.just("reset"), st.lists(positions, min_size=2, max_size=2), st.just(1)),
    st.tuples(st.just("stop"), st.none(), st.just(1)),
)


@settings(max_examples=150, deadline=None)
@given(
    sequence=st.lists(events, min_size=1, max_size=25),
    velocity=st.floats(0.5, 500.0),
    acceleration=st.floats(1.0, 1e5),
    jump=st.floats(0.1, 300.0),
    rate_hz=st.sampled_from([10.0, 50.0, 200.0, 1000.0]),
)
def test_no_sequence_breaks_a_limit(
    sequence: list[tuple[str, list[float] | None, int]],
    velocity: float,
    acceleration: float,
    jump: float,
    rate_hz: float,
) -> None:
    observer = Observer(
        limits(velocity=velocity, acceleration=acceleration, jump=jump), np.zeros(2), 1.0 / rate_hz
    )
    for kind, values, repeats in sequence:
        for _ in range(repeats):
            row = None if values is None else np.array(values)
            if kind == "reset":
                assert row is not None
                observer.reset(row)
            elif kind == "stop":
                observer.gate.stop()
                observer.step(observer.command)
            elif kind == "near":
                observer.step(observer.command + row)
            elif kind == "measured":
                observer.step(observer.command + 1.0, measured=row)
            else:
                observer.step(row)


@settings(max_examples=20, deadline=None)
@given(
    targets=st.lists(st.floats(-40.0, 40.0), min_size=1, max_size=2),
    velocity=st.floats(50.0, 500.0),
    acceleration=st.floats(200.0, 1e4),
)
def test_a_target_that_stays_is_reached(targets: list[float], velocity: float, acceleration: float) -> None:
    observer = Observer(limits(velocity=velocity, acceleration=acceleration, jump=500.0), np.zeros(2))
    for target in targets:
        # Full stop, then the longest way with the slowest ramps, and a second to spare.
        needed_s = (
            200.0 / velocity + 2.0 * velocity / acceleration + 2.0 * math.sqrt(160.0 / acceleration) + 1.0
        )
        for _ in range(math.ceil(needed_s / PERIOD_S)):
            observer.step(np.full(2, target))
        assert np.abs(observer.command - target).max() < 1e-6
        assert not observer.gate.last.limited


def test_results_are_numpy() -> None:
    gate = SafetyGate(limits(), period_s=PERIOD_S)
    gate.reset(np.zeros(2))
    result = gate.step([20.0, 0.0], measured=np.zeros(2))
    assert result.command.shape == (2,)
    assert result.command.dtype == np.float64
    assert result.limited
    assert result.limited_joints.tolist() == [True, False]
    assert (result.state, result.reason) == ("running", "acceleration_limit")
    assert f"{result.state}" == "running"


def test_reset_clears_a_fault() -> None:
    gate = SafetyGate(limits(), period_s=PERIOD_S)
    gate.reset([200.0, 0.0])
    assert gate.last.state == GateState.FAULT
    assert gate.last.reason == Reason.START_OUTSIDE_LIMITS
    for _ in range(5):
        assert gate.step(np.zeros(2)).state == GateState.FAULT
    gate.reset(np.zeros(2))
    assert gate.step(np.zeros(2)).state == GateState.RUNNING


def test_every_reason_has_a_sentence() -> None:
    from molmoact2_edge._core import control as compiled

    assert [reason.value for reason in Reason] == list(compiled.REASONS)
    assert [state.value for state in GateState] == compiled.STATES
    assert all(reason.text for reason in Reason)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"velocity": 0.0}, "velocity_max of joint 0"),
        ({"acceleration": float("nan")}, "acceleration_max of joint 0"),
        ({"jump": -1.0}, "jump_max of joint 0"),
        ({"reach": -1.0}, "position_min of joint 0"),
        ({"joints": 33}, "1 to 32 joints"),
        ({"joints": 0}, "1 to 32 joints"),
    ],
)
def test_limits_that_make_no_sense_are_refused(changes: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        limits(**changes)  # type: ignore[arg-type]


def test_limits_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match=r"velocity_max must have shape \(2,\)"):
        JointLimits([0, 0], [1, 1], [1], [1, 1], [1, 1])


def test_wrong_shapes_are_refused_and_change_nothing() -> None:
    gate = SafetyGate(limits(), period_s=PERIOD_S)
    gate.reset(np.zeros(2))
    with pytest.raises(InputError, match="target"):
        gate.step(np.zeros(3))
    with pytest.raises(InputError, match="measured"):
        gate.step(np.zeros(2), measured=np.zeros((1, 2)))
    with pytest.raises(InputError, match="finite"):
        gate.reset([0.0, np.nan])
    with pytest.raises(InputError, match="period_s"):
        SafetyGate(limits(), period_s=0.0)
    assert gate.last.state == GateState.HOLDING
