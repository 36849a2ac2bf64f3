"""The stepped arm and its cameras: the same devices, whose time is somebody else's."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from molmoact2_drivers import Camera, Robot, StopPolicy
from molmoact2_drivers.protocol import LifeCycle
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.sim import World
from molmoact2_edge.sim.stepped import SimulatedClock, SteppedCamera, SteppedRobot


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def robot(clock: SimulatedClock) -> Any:
    arm = SteppedRobot(World(3), clock)
    arm.connect()
    arm.configure()
    arm.activate()
    yield arm
    arm.disconnect()


def pass_time(robot: SteppedRobot, clock: SimulatedClock, periods: int) -> None:
    for _ in range(periods):
        clock.now_ns += round(robot.period_s * 1e9)
        robot.step()


def test_it_is_a_robot_without_a_thread(clock: SimulatedClock) -> None:
    threads = threading.active_count()
    arm = SteppedRobot(World(3), clock)
    arm.connect()
    assert isinstance(arm, Robot)
    assert threading.active_count() == threads
    assert arm.life_cycle is LifeCycle.CONNECTED
    arm.disconnect()
    with pytest.raises(RobotError, match="disconnected"):
        arm.step()


def test_time_stands_still_until_it_is_stepped(robot: SteppedRobot, clock: SimulatedClock) -> None:
    before = robot.read_state()
    robot.write_targets(before.positions + np.array([10.0, 0, 0, 0, 0, 0]))
    assert robot.read_state() is before
    pass_time(robot, clock, 100)
    state = robot.read_state()
    assert state.time_ns == clock.now_ns == 1_000_000_000 + 800_000_000
    assert state.positions[0] - before.positions[0] == pytest.approx(10.0, abs=1.0)
    with robot.world() as world:
        assert world.time == pytest.approx(0.8)


def test_it_moves_as_the_world_does(robot: SteppedRobot, clock: SimulatedClock) -> None:
    twin = World(3)
    target = twin.positions() + np.array([5.0, -4.0, 3.0, 2.0, 8.0, 10.0])
    robot.write_targets(target)
    pass_time(robot, clock, 50)
    for _ in range(50):
        twin.step(target, 0.008)
    assert np.array_equal(robot.read_state().positions, twin.positions())


def test_a_command_counts_from_the_next_period_on(robot: SteppedRobot, clock: SimulatedClock) -> None:
    from molmoact2_edge.control import ControlLoop, JointLimits

    row = np.ones(6)
    limits = JointLimits(-200 * row, 200 * row, 500 * row, 5000 * row, 50 * row)
    loop = ControlLoop(robot.port(), limits, rate_hz=125.0, mode="async")
    loop.begin_stepped(clock.now_ns)
    pass_time(robot, clock, 1)
    loop.tick(clock.now_ns)
    observation = loop.observation_at(clock.now_ns)
    assert observation is not None
    loop.push(observation.measured + np.linspace(0.0, 1.0, 20)[:, None], observation)
    with robot.world() as world:
        for _ in range(3):
            loop.tick(clock.now_ns)
            targets = robot._target.copy()
            pass_time(robot, clock, 1)
            assert np.array_equal(world._set_point, world_set_point(world, targets))
            record = loop.last_record()
            assert record is not None
            assert np.array_equal(robot._target, record["command"])


def world_set_point(world: World, targets: np.ndarray) -> np.ndarray:
    from molmoact2_edge.sim.world import to_radians

    return np.clip(to_radians(targets), world._low, world._high)


def test_stopped_it_takes_no_commands(robot: SteppedRobot, clock: SimulatedClock) -> None:
    robot.stop(StopPolicy.HOLD)
    rest = robot.read_state().positions
    pass_time(robot, clock, 50)
    assert np.allclose(robot.read_state().positions, rest, atol=0.5)
    with pytest.raises(RobotError, match="must be active"):
        robot.write_targets(rest)


def test_physics_that_diverge_are_an_error_until_recovered(
    robot: SteppedRobot, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*arguments: Any) -> None:
        raise RobotError("the physics diverged at 0.1 s")

    with robot.world() as world, monkeypatch.context() as patch:
        patch.setattr(world, "step", diverge)
        pass_time(robot, clock, 3)
    assert robot.life_cycle is LifeCycle.ERROR
    assert robot.fault == "the physics diverged at 0.1 s"
    robot.recover()
    assert robot.life_cycle is LifeCycle.CONFIGURED
    pass_time(robot, clock, 1)


def test_cameras_see_the_moment_of_their_exposure(robot: SteppedRobot, clock: SimulatedClock) -> None:
    front = SteppedCamera(robot, clock, "front", (48, 64))
    wrist = SteppedCamera(robot, clock, "wrist", (112, 112))
    assert isinstance(front, Camera)
    for camera in (front, wrist):
        camera.connect()
    try:
        first = front.latest()
        assert first is front.latest()
        assert (first.image.shape, first.time_ns, first.sequence) == ((48, 64, 3), clock.now_ns, 0)
        assert not first.image.flags.writeable
        begun = clock.now_ns
        wrist.expose()
        robot.write_targets(robot.read_state().positions + 20.0)
        pass_time(robot, clock, 60)
        # Drawn only now, and of two sizes in turn: still what was there when they were exposed.
        late, again = wrist.latest(), front.latest()
        assert (late.time_ns, late.image.shape) == (begun, (112, 112, 3))
        assert again is first
        front.expose()
        wrist.expose()
        assert front.latest().time_ns == clock.now_ns
        assert not np.array_equal(front.latest().image, first.image)
        assert not np.array_equal(wrist.latest().image, late.image)
    finally:
        for camera in (front, wrist):
            camera.disconnect()


def test_a_camera_says_what_is_wrong_with_its_use(robot: SteppedRobot, clock: SimulatedClock) -> None:
    with pytest.raises(InputError, match="no camera 'back'"):
        SteppedCamera(robot, clock, "back")
    with pytest.raises(InputError, match="rate_hz"):
        SteppedCamera(robot, clock, "front", rate_hz=0.0)
    camera = SteppedCamera(robot, clock, "front")
    assert camera.life_cycle is LifeCycle.DISCONNECTED
    with pytest.raises(RobotError, match="connect it first"):
        camera.latest()
    camera.connect()
    try:
        with pytest.raises(RobotError, match="disconnect it first"):
            camera.connect()
        assert camera.wait_newer(-1, 0.0).sequence == 0
        with pytest.raises(RobotError, match="stands still"):
            camera.wait_newer(0, 10.0)
    finally:
        camera.disconnect()
    camera.disconnect()
