"""The arm's geometry against the published facts, and the closed form against the physics engine."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact2_edge.sim import JOINT_NAMES, World
from molmoact2_edge.sim.kinematics import grip_point, joint_angles

WORLD = World(0)
RANGES_DEG = ((-110, 110), (-100, 100), (-96.8, 96.8), (-95, 95), (-157.2, 162.8), (0, 100))
MASSES = {
    "base": 0.147,
    "shoulder": 0.100,
    "upper_arm": 0.103,
    "lower_arm": 0.104,
    "wrist": 0.079,
    "gripper": 0.087,
}


def test_grip_point_at_zero() -> None:
    WORLD.set_positions(np.zeros(6))
    np.testing.assert_allclose(WORLD.grip_point(), (0.391, 0.0, 0.227), atol=6e-4)


def test_joint_order_and_limits() -> None:
    assert [WORLD.model.joint(i).name for i in range(6)] == list(JOINT_NAMES)
    np.testing.assert_allclose(WORLD.limits, RANGES_DEG, atol=1e-9)


@pytest.mark.parametrize(("body", "mass"), [*MASSES.items(), ("jaw", 0.012)])
def test_masses(body: str, mass: float) -> None:
    assert float(WORLD.model.body(body).mass[0]) == pytest.approx(mass, abs=1e-9)


def test_servo_model() -> None:
    model = WORLD.model
    np.testing.assert_allclose(model.actuator_gainprm[:, 0], 998.22)
    np.testing.assert_allclose(model.actuator_biasprm[:, 1:3], [[-998.22, -2.731]] * 6)
    np.testing.assert_allclose(model.actuator_forcerange, [[-2.94, 2.94]] * 6)
    np.testing.assert_allclose(model.dof_damping[:6], 0.60)
    np.testing.assert_allclose(model.dof_frictionloss[:6], 0.052)
    np.testing.assert_allclose(model.dof_armature[:6], 0.028)


@given(st.tuples(*(st.floats(low, high) for low, high in RANGES_DEG[:4])))
@settings(max_examples=100, deadline=None)
def test_forward_kinematics_equals_the_engine(arm: tuple[float, ...]) -> None:
    WORLD.set_positions([*arm, 0.0, 0.0])
    # The published quaternions carry four digits, and the arm lies 0.2 mm beside its plane.
    np.testing.assert_allclose(grip_point(*(math.radians(q) for q in arm)), WORLD.grip_point(), atol=5e-4)


@given(x=st.floats(0.18, 0.30), y=st.floats(-0.12, 0.12), z=st.floats(0.01, 0.065))
@settings(max_examples=200, deadline=None)
def test_the_whole_workspace_is_reached(x: float, y: float, z: float) -> None:
    pitch = math.radians(60.0)
    arm = joint_angles(x, y, z, pitch)
    assert arm is not None
    np.testing.assert_allclose(grip_point(*arm), (x, y, z), atol=1e-9)
    assert sum(arm[1:]) == pytest.approx(pitch)
    low, high = WORLD.limits[:4].T
    assert (np.degrees(arm) > low).all()
    assert (np.degrees(arm) < high).all()


def test_out_of_reach() -> None:
    assert joint_angles(0.6, 0.0, 0.02, math.radians(60)) is None


def test_straight_down_ends_before_027() -> None:
    """The reason for the tilted approach: wrist_flex ends at 95 degrees."""

    def feasible(x: float) -> bool:
        arm = joint_angles(x, 0.0, 0.07, math.radians(90))
        return arm is not None and abs(math.degrees(arm[3])) <= 95.0

    assert feasible(0.26)
    assert not feasible(0.27)


@pytest.mark.parametrize("joint", range(6))
def test_servos_reach_targets(joint: int) -> None:
    world = World(3)
    targets = np.array([0.0, -40.0, 30.0, 60.0, 0.0, 20.0])
    targets[joint] += 8.0
    world.step(targets, 0.5)
    world.step(targets, 0.5)
    np.testing.assert_allclose(world.positions(), targets, atol=0.6)


def test_targets_stop_at_the_limits() -> None:
    world = World(3)
    start = world.positions()
    target = np.array([500.0, *start[1:]])
    world.step(target, 3.0)
    assert world.positions()[0] <= 110.5
    assert world.positions()[0] > 105.0
