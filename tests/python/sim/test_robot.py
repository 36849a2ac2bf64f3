"""The arm in real time: life cycle, mailbox, cameras. Waits have long limits; no test measures how fast it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest

from molmoact2_drivers import Camera, Frame, LifeCycle, Measurement, Robot, StopPolicy
from molmoact2_edge.control import ControlLoop, JointLimits, MailboxPort, Observation
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.sim import JOINT_NAMES, TouchTask, World, expert_chunk
from molmoact2_edge.sim.robot import SimCamera, SimRobot

PATIENCE_S = 30.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.01)


def state_of(device: SimRobot | SimCamera) -> LifeCycle:
    """A call, so that type checkers do not take one state for the next."""
    return device.life_cycle


def sim_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sim-")]


@pytest.fixture
def robot() -> Iterator[SimRobot]:
    robot = SimRobot(World(0, image_size=(64, 64)))
    yield robot
    robot.disconnect()
    assert sim_threads() == []


@pytest.fixture
def active(robot: SimRobot) -> SimRobot:
    robot.connect()
    robot.configure()
    robot.activate()
    return robot


def test_it_is_a_robot_and_has_cameras(robot: SimRobot) -> None:
    assert isinstance(robot, Robot)
    assert isinstance(SimCamera(robot, "front"), Camera)
    capabilities = robot.capabilities
    assert capabilities.joint_names == JOINT_NAMES
    assert capabilities.stop_policies == frozenset(StopPolicy)
    assert capabilities.measures == {Measurement.VELOCITY}
    assert capabilities.joints[5].lower == pytest.approx(0.0)
    assert capabilities.joints[5].upper == pytest.approx(100.0)


def test_life_cycle(robot: SimRobot) -> None:
    assert state_of(robot) is LifeCycle.DISCONNECTED
    robot.connect()
    assert state_of(robot) is LifeCycle.CONNECTED
    robot.configure()
    assert state_of(robot) is LifeCycle.CONFIGURED
    robot.activate()
    assert state_of(robot) is LifeCycle.ACTIVE
    robot.stop(StopPolicy.HOLD)
    assert state_of(robot) is LifeCycle.CONFIGURED
    robot.disconnect()
    assert state_of(robot) is LifeCycle.DISCONNECTED
    robot.disconnect()
    robot.connect()
    assert state_of(robot) is LifeCycle.CONNECTED


def test_methods_out_of_order_are_refused(robot: SimRobot) -> None:
    for method in (robot.configure, robot.activate, robot.port, robot.read_state, robot.recover):
        with pytest.raises(RobotError, match="is disconnected"):
            method()
    with pytest.raises(RobotError, match="must be active"):
        robot.write_targets(np.zeros(6))
    robot.connect()
    with pytest.raises(RobotError, match="is connected"):
        robot.connect()
    with pytest.raises(RobotError, match="must be configured"):
        robot.activate()


def test_states_carry_a_monotonic_time(active: SimRobot) -> None:
    first = active.read_state()
    wait_for(lambda: active.read_state().time_ns > first.time_ns, "a second state")
    second = active.read_state()
    assert second.positions.shape == (6,)
    assert second.velocities is not None
    assert second.currents is None
    assert 0 <= second.age_ns(time.monotonic_ns()) < PATIENCE_S * 1e9


def test_targets_are_followed(active: SimRobot) -> None:
    target = active.read_state().positions + np.array([10, 5, -5, 5, 10, 20])
    active.write_targets(target)
    wait_for(lambda: bool(np.allclose(active.read_state().positions, target, atol=0.8)), "the target")


@pytest.mark.parametrize("bad", [np.zeros(5), np.full(6, np.nan)])
def test_bad_targets_are_refused(active: SimRobot, bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="six finite"):
        active.write_targets(bad)


def test_hold_keeps_the_place_and_torque_off_lets_it_fall(active: SimRobot) -> None:
    active.stop(StopPolicy.HOLD)
    start = active.read_state()
    wait_for(lambda: active.read_state().time_ns > start.time_ns + 300_000_000, "some time to pass")
    np.testing.assert_allclose(active.read_state().positions, start.positions, atol=1.0)
    active.stop(StopPolicy.TORQUE_OFF)
    wait_for(lambda: bool(np.abs(active.read_state().positions - start.positions).max() > 10.0), "the fall")
    active.activate()
    held = active.read_state()
    wait_for(lambda: active.read_state().time_ns > held.time_ns + 300_000_000, "some time to pass")
    with active.world() as world:
        target = active.read_state().positions
        np.testing.assert_allclose(world.positions(), target, atol=1.0)


def test_commands_before_activation_are_dropped(robot: SimRobot) -> None:
    robot.connect()
    robot.configure()
    port = robot.port()
    assert isinstance(port, MailboxPort)
    assert robot.port() is port
    state = robot.read_state()
    before = state.positions
    loop = control_loop(port)
    loop.start()
    observation = Observation(loop.run, 0, before, state.time_ns)
    loop.push(np.tile(before + np.array([20.0, 0, 0, 0, 0, 0]), (20, 1)), observation)
    wait_for(lambda: loop.ticks > 20, "twenty ticks")
    assert loop.stop(PATIENCE_S)
    robot.activate()
    np.testing.assert_allclose(robot.read_state().positions, before, atol=1.0)


def control_loop(port: MailboxPort) -> ControlLoop:
    limits = JointLimits(
        position_min=[-110, -100, -96.8, -95, -157.2, 0],
        position_max=[110, 100, 96.8, 95, 162.8, 100],
        velocity_max=[150.0] * 6,
        acceleration_max=[3000.0] * 6,
        jump_max=[40.0] * 6,
    )
    return ControlLoop(
        port,
        limits,
        rate_hz=50.0,
        chunk_rate_hz=10.0,
        mode="async",
        silence_hold_s=5.0,
        silence_fault_s=10.0,
        start_speed=0.5,
        start_distance_max=[90.0] * 6,
    )


def test_the_control_loop_touches_a_block_through_the_mailbox(active: SimRobot) -> None:
    """World, physics thread, mailbox and C++ loop end to end, with the expert in the policy's place."""
    active.reset(np.random.default_rng(1))
    task = TouchTask("green")
    loop = control_loop(active.port())
    loop.start()
    try:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with active.world() as world:
                outcome = task.outcome(world)
                chunk = expert_chunk(world, task.colour, 15)
            if outcome.done:
                break
            observed = loop.observation_at(time.monotonic_ns())
            if observed is not None:
                # The loop's row 0 is due at the observation, the expert's first target one period later.
                loop.push(np.vstack([observed.measured, chunk]), observed)
            time.sleep(0.1)
    finally:
        assert loop.stop(PATIENCE_S)
    assert outcome.success, outcome.reason


def test_reset_moves_the_arm_and_forgets_targets(active: SimRobot) -> None:
    active.write_targets(active.read_state().positions + np.array([30, 0, 0, 0, 0, 0]))
    scene = active.reset(np.random.default_rng(4))
    state = active.read_state()
    np.testing.assert_allclose(state.positions, scene.start, atol=0.5)
    wait_for(lambda: active.read_state().time_ns > state.time_ns + 200_000_000, "some time to pass")
    np.testing.assert_allclose(active.read_state().positions, scene.start, atol=1.0)


def test_diverged_physics_is_an_error_that_recovers(
    active: SimRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> None:
        raise RobotError("the physics diverged")

    with active.world() as world:
        monkeypatch.setattr(world, "step", diverge)
    wait_for(lambda: state_of(active) is LifeCycle.ERROR, "the error")
    assert "diverged" in str(active.fault)
    with pytest.raises(RobotError, match="diverged"):
        active.read_state()
    monkeypatch.undo()
    active.recover()
    assert state_of(active) is LifeCycle.CONFIGURED
    assert active.fault is None
    active.activate()
    assert active.read_state().positions.shape == (6,)


def test_period_is_checked() -> None:
    with pytest.raises(InputError, match="period_s"):
        SimRobot(World(0), period_s=0.05)


@pytest.mark.parametrize("name", ["front", "wrist"])
def test_camera_delivers_what_the_world_draws(robot: SimRobot, name: str) -> None:
    """Before `connect` the physics stands still, so the frame equals the world's own rendering."""
    camera = SimCamera(robot, name, (64, 64), rate_hz=100.0)
    camera.connect()
    try:
        frame = camera.latest()
        with robot.world() as world:
            np.testing.assert_array_equal(frame.image, world.render(name))
        assert not frame.image.flags.writeable
        newer = camera.wait_newer(frame.sequence, PATIENCE_S)
        assert newer.sequence > frame.sequence
        assert newer.time_ns > frame.time_ns
        assert newer.age_ns(time.monotonic_ns()) > 0
    finally:
        camera.disconnect()
    assert state_of(camera) is LifeCycle.DISCONNECTED
    with pytest.raises(RobotError, match="connect it first"):
        camera.latest()


def changed(camera: SimCamera, old: Frame) -> bool:
    return bool((camera.latest().image != old.image).mean() > 0.02)


def test_two_cameras_show_a_moving_arm(active: SimRobot) -> None:
    cameras = [SimCamera(active, name, (64, 64)) for name in ("front", "wrist")]
    for camera in cameras:
        camera.connect()
    try:
        before = [camera.latest() for camera in cameras]
        active.write_targets(active.read_state().positions + np.array([25, 10, 0, 0, 0, 0]))
        for camera, old in zip(cameras, before, strict=True):
            wait_for(partial(changed, camera, old), f"motion in {camera.name}")
    finally:
        for camera in cameras:
            camera.disconnect()


def test_camera_waits_no_longer_than_told(robot: SimRobot) -> None:
    camera = SimCamera(robot, "front", (32, 32), rate_hz=1.0)
    camera.connect()
    try:
        with pytest.raises(RobotError, match="no frame after"):
            camera.wait_newer(10_000, 0.05)
    finally:
        camera.disconnect()


def test_camera_without_gl_reports_why(robot: SimRobot, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_context(*_: object) -> None:
        raise RobotError("no OpenGL library works")

    monkeypatch.setattr("molmoact2_edge.sim.robot.OffscreenRenderer", no_context)
    camera = SimCamera(robot, "front")
    with pytest.raises(RobotError, match="no OpenGL library works"):
        camera.connect()
    assert state_of(camera) is LifeCycle.DISCONNECTED


def test_unknown_camera_and_rate(robot: SimRobot) -> None:
    with pytest.raises(InputError, match="front, wrist"):
        SimCamera(robot, "top")
    with pytest.raises(InputError, match="rate_hz"):
        SimCamera(robot, "front", rate_hz=0.0)
