"""The YAM driver against the emulator in its own process: identified, held, moved, let go."""

from __future__ import annotations

import ctypes
import time

import numpy as np
import numpy.typing as npt
import pytest
from drivers.yam.arms import MOTOR_TIMEOUT_S, configuration, wait_until, yam
from emulators.processes import emulator

from molmoact2_drivers.protocol import LifeCycle, StopPolicy
from molmoact2_drivers.yam import YamRobot, discover, from_config
from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError, RobotError

POSE = np.array([0.0, 60.0, 60.0, -30.0, 0.0, 0.0, 50.0])
RESOLUTION = 0.05  # degrees: 25 rad over 16 bits, and a percent of a gripper
AT_REST = 0.7  # degrees from a target, of joints without weight


def active(robot: YamRobot) -> YamRobot:
    robot.connect()
    robot.configure()
    robot.activate()
    return robot


def follow(robot: YamRobot, target: npt.NDArray[np.float64], tolerance: float = AT_REST) -> bool:
    """Repeat a target until it is reached, as a loop would."""

    def reached() -> bool:
        robot.write_targets(target)
        return bool(np.abs(robot.read_state().positions - target).max() <= tolerance)

    return wait_until(reached)


def test_it_is_identified_before_anything_is_written() -> None:
    with yam() as (_, robot):
        robot.connect()
        assert robot.life_cycle is LifeCycle.CONNECTED
        assert list(robot.identities) == list(robot.capabilities.joint_names)
        assert [motor.id for motor in robot.identities.values()] == [1, 2, 3, 4, 5, 6, 7]
        assert robot.identities["joint_1"].ranges == (12.5, 10.0, 28.0)
        assert robot.identities["joint_5"].gear == 10.0
        state = robot.read_state()
        np.testing.assert_allclose(state.positions, POSE, atol=RESOLUTION)
        assert state.temperatures is not None
        assert set(state.temperatures) == {32.0}
        # Nothing was switched on.
        assert {motor["status"] for motor in robot.statistics()["motors"]} == {0}


def test_a_bus_is_scanned_with_python_can() -> None:
    with emulator("yam") as process:
        found = discover(process.address)
    assert [motor.id for motor in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [motor.master_id for motor in found] == [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]


def test_scales_that_differ_from_the_robot_file_are_refused() -> None:
    with yam("--vmax", "8") as (_, robot):
        with pytest.raises(RobotError, match=r"joint_1 .*VMAX \(register 22\) is 8, the robot file says 10"):
            robot.connect()
        assert robot.life_cycle is LifeCycle.DISCONNECTED


def test_motors_that_do_not_answer_are_named() -> None:
    with yam() as (process, robot):
        process.fault("absent servo=2")
        process.fault("absent servo=7")
        with pytest.raises(RobotError, match="no answer from motor 2, 7"):
            robot.connect()


def test_a_gripper_whose_ends_are_wrong_is_refused() -> None:
    with yam(gripper={"closed": 0.0, "open": -6.57}) as (_, robot):
        robot.connect()
        with pytest.raises(
            RobotError, match=r"gripper .* stands at 3\.28 rad, outside closed \(0\) and open"
        ):
            robot.configure()
        assert robot.life_cycle is LifeCycle.CONNECTED


def test_nothing_jumps_when_it_is_switched_on_and_targets_are_followed() -> None:
    with yam() as (_, robot):
        active(robot)
        assert robot.life_cycle is LifeCycle.ACTIVE
        time.sleep(0.3)
        np.testing.assert_allclose(robot.read_state().positions, POSE, atol=AT_REST)
        target = POSE + np.array([10.0, -8.0, 6.0, 5.0, -5.0, 7.0, 20.0])
        assert follow(robot, target)
        state = robot.read_state()
        assert state.age_ns(time.monotonic_ns()) < 10**9
        assert state.velocities is not None
        with pytest.raises(InputError, match="7 finite"):
            robot.write_targets([np.nan] * 7)
        with pytest.raises(InputError, match="7 finite"):
            robot.write_targets(np.zeros(14))


def test_two_arms_move_as_one() -> None:
    with yam("--bimanual") as (_, robot):
        active(robot)
        assert len(robot.capabilities.joints) == 14
        target = np.concatenate([POSE + 5.0, POSE - 5.0])
        assert follow(robot, target)
        report = robot.statistics()
        assert [bus["open"] for bus in report["buses"]] == [True, True]


def test_every_stop_does_what_it_says() -> None:
    with yam() as (_, robot):
        active(robot)
        follow(robot, POSE + 5.0)
        for policy, status, mode in (
            (StopPolicy.HOLD, 1, "hold"),
            (StopPolicy.DAMP, 1, "damp"),
            (StopPolicy.TORQUE_OFF, 0, "listen"),
            (StopPolicy.HOLD, 1, "hold"),
        ):
            robot.stop(policy)
            assert robot.life_cycle is LifeCycle.CONFIGURED
            time.sleep(0.1)
            report = robot.statistics()
            assert report["mode"] == mode
            assert {motor["status"] for motor in report["motors"]} == {status}
        assert not robot.port().write(POSE)  # a loop's targets are not taken any more
        robot.activate()
        assert follow(robot, POSE)


def test_the_weight_is_held_damped_or_dropped() -> None:
    gravity = load_robot("yam-bimanual").connection["gravity"]
    # The emulated arm weighs what the model says, so that the exact torques, not the maker's larger ones, hold it.
    exact = {**gravity, "scale": [1.0] * 6}
    with yam("--gravity", "--pose", "0", "60", "60", "0", "0", "0", "50", gravity=exact) as (_, robot):
        active(robot)
        held = robot.read_state().positions
        time.sleep(1.0)
        np.testing.assert_allclose(robot.read_state().positions, held, atol=2.0)
        robot.stop(StopPolicy.DAMP)
        time.sleep(0.5)
        assert robot.read_state().positions[1] > -2.0
        assert wait_until(lambda: bool(np.abs(robot.read_state().positions - held).max() > 3.0))


def test_the_gains_alone_let_a_heavy_arm_sink() -> None:
    with yam("--gravity", "--pose", "0", "60", "60", "0", "0", "0", "50") as (_, robot):
        active(robot)
        assert wait_until(lambda: bool(np.abs(robot.read_state().positions - robot_pose()).max() > 2.0))


def robot_pose() -> npt.NDArray[np.float64]:
    return np.array([0.0, 60.0, 60.0, 0.0, 0.0, 0.0, 50.0])


def test_motors_stay_alive_while_nobody_commands_even_while_python_is_stuck() -> None:
    with yam() as (_, robot):
        active(robot)
        # A call through PyDLL keeps the interpreter's lock: no thread of Python can run.
        ctypes.PyDLL(None).usleep(round(1.5e6 * MOTOR_TIMEOUT_S))
        time.sleep(1.5 * MOTOR_TIMEOUT_S)
        assert robot.life_cycle is LifeCycle.ACTIVE, robot.fault
        assert follow(robot, POSE + 3.0)


def test_motors_that_were_left_brake_by_themselves_and_the_next_session_clears_it() -> None:
    with emulator("yam") as process:
        first = active(from_config(configuration(process.address)))
        first.disconnect()
        assert first.life_cycle is LifeCycle.DISCONNECTED
        time.sleep(MOTOR_TIMEOUT_S + 0.3)
        second = from_config(configuration(process.address))
        second.connect()
        try:
            assert wait_until(lambda: {m["status"] for m in second.statistics()["motors"]} == {0xD})
            second.configure()
            assert second.life_cycle is LifeCycle.CONFIGURED, second.fault
            second.activate()
            assert follow(second, POSE + 3.0)
        finally:
            second.disconnect()


def test_the_timeout_is_armed_and_read_back() -> None:
    with yam(timeout_s=0.35) as (_, robot):
        robot.connect()
        robot.configure()
        assert [robot.port().read_register(index, 9) for index in range(7)] == [7000] * 7
        assert robot.port() is robot.port()
