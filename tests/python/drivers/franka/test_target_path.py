"""Whatever the targets, the path at 1 kHz is one that the arm takes: the emulated arm and differences judge it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact2_drivers.franka.arm_limits import ARMS
from molmoact2_drivers.franka.target_path import PERIOD_S, TargetPath
from molmoact2_edge.errors import RobotError
from molmoact2_emulators.fci_motion import ArmMotion, Drive
from molmoact2_emulators.franka_arm import FR3, PANDA

MODELS = {"fr3": FR3, "panda": PANDA}
READY = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])
Vector = npt.NDArray[np.float64]


def travel(
    arm: str, targets: list[Vector], steps_between: list[int], period_s: float, rest: bool = False
) -> tuple[Vector, list[str]]:
    """Follow targets from the ready pose, each for some milliseconds; returns commands (n, 7) and the arm's errors."""
    path = TargetPath(ARMS[arm], period_s)
    path.begin(READY)
    judge = ArmMotion(MODELS[arm], tuple(READY.tolist()))
    judge.begin(Drive.POSITION)
    commands, errors = [], []

    def tick() -> None:
        command = path.step()
        commands.append(command)
        error = judge.follow(tuple(command.tolist()))
        if error is not None:
            errors.append(error)

    for target, steps in zip(targets, steps_between, strict=True):
        path.aim(target)
        for _ in range(steps):
            tick()
    if rest:
        path.rest()
    for _ in range(4000):
        tick()
        if path.resting:
            break
    return np.array(commands), errors


def joint_targets(arm: str) -> st.SearchStrategy[Vector]:
    model = MODELS[arm]
    # Beyond the limits too: the path ends there.
    ranges = zip(model.position_min, model.position_max, strict=True)
    return st.tuples(*(st.floats(low - 0.5, high + 0.5) for low, high in ranges)).map(np.array)


@pytest.mark.parametrize("arm", ["fr3", "panda"])
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_no_targets_make_a_command_that_the_arm_refuses(arm: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    targets = data.draw(st.lists(joint_targets(arm), min_size=count, max_size=count))
    steps = data.draw(st.lists(st.integers(1, 400), min_size=count, max_size=count))
    commands, errors = travel(arm, targets, steps, 0.01, rest=data.draw(st.booleans()))
    assert errors == []
    limits = ARMS[arm]
    assert (commands >= limits.position_min - 1e-9).all()
    assert (commands <= limits.position_max + 1e-9).all()
    velocity = np.diff(commands, axis=0) / PERIOD_S
    acceleration = np.diff(velocity, axis=0) / PERIOD_S
    jerk = np.diff(acceleration, axis=0) / PERIOD_S
    assert (np.abs(velocity) <= limits.velocity * (1 + 1e-6)).all()
    assert (np.abs(acceleration) <= limits.acceleration * (1 + 1e-6)).all()
    assert (np.abs(jerk) <= limits.jerk * (1 + 1e-3)).all()


@given(
    seed=st.integers(0, 10_000),
    lost_states=st.floats(0.0, 0.02),
    lost_commands=st.floats(0.0, 0.05),
    outage=st.integers(1, 4),
)
@settings(max_examples=8, deadline=None)
def test_lost_packets_make_no_jump(seed: int, lost_states: float, lost_commands: float, outage: int) -> None:
    draw = np.random.default_rng(seed)
    path = TargetPath(ARMS["fr3"], 0.01)
    path.begin(READY)
    arm = ArmMotion(FR3, tuple(READY.tolist()))
    arm.begin(Drive.POSITION)
    errors, silent_ms, cut_ms, missed = [], 0, 0, False
    goal = READY
    for millisecond in range(3000):
        if millisecond % 10 == 0 and millisecond < 1500:
            goal = READY + 0.3 * np.sin(0.003 * millisecond + np.arange(7)) - 0.3 * np.sin(np.arange(7))
            path.aim(goal)
        silent_ms += 1
        cut_ms = max(cut_ms - 1, outage if millisecond < 1500 and draw.random() < lost_states else 0)
        error = None
        if cut_ms > 0 or (millisecond < 1500 and draw.random() < lost_commands):
            if cut_ms == 0:  # the state came, and the answer to it is lost
                path.step(silent_ms, _told(arm) if missed or silent_ms > 1 else None)
                silent_ms = 0
            missed = True
            error = arm.extrapolate()
        else:
            command = path.step(silent_ms, _told(arm) if missed or silent_ms > 1 else None)
            silent_ms, missed = 0, False
            error = arm.follow(tuple(command.tolist()))
        if error is not None:
            errors.append((millisecond, error))
    assert errors == []
    assert arm.q_d == pytest.approx(goal, abs=1e-6)


def _told(arm: ArmMotion) -> tuple[Vector, Vector, Vector]:
    """What a state says of the arm's commanded motion: in float32."""
    position, velocity, acceleration = (
        np.array(values, dtype=np.float32).astype(np.float64) for values in (arm.q_d, arm.dq_d, arm.ddq_d)
    )
    return position, velocity, acceleration


@pytest.mark.parametrize("rate_hz", [15, 50, 100])
def test_a_smooth_motion_is_followed_smoothly_and_with_a_known_delay(rate_hz: int) -> None:
    every = round(1000 / rate_hz)
    times = np.arange(0, 2000, every)
    swing = 0.3 * (1 - np.cos(np.pi * times / 2000))
    targets = [READY + np.array([0.0, 0.0, 0.0, angle, 0.0, 0.0, 0.0]) for angle in swing]
    commands, errors = travel("fr3", targets, [every] * len(targets), 1 / rate_hz)
    assert errors == []
    velocity = np.diff(commands[:2000, 3]) / PERIOD_S
    # The way is one forward swing: nothing in it goes back, or stands between two targets.
    assert (velocity >= -1e-9).all()
    assert (velocity[300:1700] > 0.05).all()
    # Half a target's period behind the line between the targets, and the jerk limit's milliseconds.
    wanted = np.interp(np.arange(2000), times, swing)
    lag = np.abs(commands[:2000, 3] - READY[3] - wanted).max()
    assert lag <= 0.3 * np.pi / 2 * (1.5 / rate_hz + 0.02)
    assert commands[-1] == pytest.approx(targets[-1], abs=1e-6)


def test_targets_that_cease_end_in_a_braked_halt_at_the_last() -> None:
    targets = [READY + np.array([0.005 * k, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]) for k in range(100)]
    commands, errors = travel("fr3", targets, [10] * 100, 0.01)
    assert errors == []
    assert commands[-1] == pytest.approx(targets[-1], abs=1e-6)
    assert len(commands) < 1000 + 500


def test_a_stop_brakes_at_once() -> None:
    targets = [READY + np.array([0.005 * k, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]) for k in range(100)]
    commands, errors = travel("fr3", [*targets, READY + 1.0], [10] * 100 + [50], 0.01, rest=True)
    assert errors == []
    speed = np.abs(np.diff(commands[1040:1052], axis=0)).max(axis=0) / PERIOD_S
    braking = commands[-1] - commands[1049]
    limits = ARMS["fr3"]
    assert (np.abs(braking) <= speed**2 / (2 * limits.acceleration) + speed * 0.02 + 1e-3).all()


def test_an_arm_outside_its_limits_is_not_moved() -> None:
    path = TargetPath(ARMS["fr3"], 0.01)
    with pytest.raises(RobotError, match=r"joint 4 stands at -2\.9 degrees, outside .* by hand"):
        path.begin(np.array([0.0, 0.0, 0.0, -0.05, 0.0, 1.5, 0.0]))
