"""The driver of Dynamixel arms at the emulated Koch: its life, its states, its targets, and every fault."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drivers.dynamixel.koch import CALIBRATION, make_arm, wait_until, write_calibration
from emulators.processes import EmulatorProcess, emulator

from molmoact2_drivers import Robot
from molmoact2_drivers.calibration import JointCalibration
from molmoact2_drivers.dynamixel import DynamixelArm, ServoBus, Torque, open_leader
from molmoact2_drivers.protocol import JointUnit, LifeCycle, StopPolicy
from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError, RobotError

KOCH = "1:xl430-w250,2:xl430-w250,3:xl330-m288,4:xl330-m288,5:xl330-m288,6:xl330-m288"


@pytest.fixture
def process() -> Iterator[EmulatorProcess]:
    with emulator("dynamixel", "--seed", "3") as process:
        yield process


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    return write_calibration(tmp_path)


@pytest.fixture
def arm(process: EmulatorProcess, calibration: Path) -> Iterator[DynamixelArm]:
    arm = make_arm(process.address, calibration)
    arm.connect()
    arm.configure()
    arm.activate()
    yield arm
    arm.disconnect()
    assert not any(thread.name == "dynamixel-attendant" for thread in threading.enumerate())


def goes_on(arm: DynamixelArm) -> bool:
    """Whether a loop would go on: targets are taken, and the pose is fresh."""
    target = arm.read_state().positions
    arm.port().write(target)
    arm.port().read()
    taken = arm.port().write(target)
    answer = arm.port().read()
    return taken and answer is not None and time.monotonic_ns() - answer[1] < 100_000_000


def test_it_is_a_robot_with_the_joints_of_its_configuration(arm: DynamixelArm) -> None:
    assert isinstance(arm, Robot)
    capabilities = arm.capabilities
    assert capabilities.joint_names == tuple(load_robot("koch").joints)
    assert [joint.unit for joint in capabilities.joints] == [JointUnit.DEGREES] * 5 + [JointUnit.PERCENT]
    assert capabilities.joints[1].upper == pytest.approx(1250 * 360 / 4095)
    assert (capabilities.joints[5].lower, capabilities.joints[5].upper) == (0.0, pytest.approx(100.0))
    # An XL430 turns at most 265 counts of 0.229 turns a minute.
    assert capabilities.joints[0].velocity_max == pytest.approx(
        265 * 0.229 / 60 * 4096 * 360 / 4095, rel=0.01
    )
    assert capabilities.command_rate_max_hz > load_robot("koch").loop.rate_hz


def test_states_come_in_every_stage_and_agree(process: EmulatorProcess, calibration: Path) -> None:
    arm = make_arm(process.address, calibration)
    with pytest.raises(RobotError, match="disconnected"):
        arm.read_state()
    arm.connect()
    assert arm.life_cycle is LifeCycle.CONNECTED
    # Nothing was written: the homing offsets are not in the servos yet.
    assert arm.read_state().positions[2] == pytest.approx((2048 - 2050) * 360 / 4095)
    assert arm.read_state().positions[0] == pytest.approx(0.5 * 360 / 4095)
    arm.configure()
    before_ns = time.monotonic_ns()
    state = arm.read_state()
    assert state.positions[0] == pytest.approx((2048 + 12 - 2047.5) * 360 / 4095)
    assert state.positions[5] == pytest.approx((2048 - 100 - 1800) / 1100 * 100)
    assert state.time_ns > before_ns - 20_000_000
    assert state.velocities is not None
    assert np.abs(state.velocities).max() == 0.0
    assert state.temperatures is not None
    assert list(state.temperatures) == [30.0] * 6
    assert state.currents is not None
    assert list(np.isnan(state.currents)) == [True, True, False, False, False, False]
    arm.disconnect()
    assert arm.life_cycle is LifeCycle.DISCONNECTED


def test_activation_moves_nothing_and_targets_are_followed(arm: DynamixelArm) -> None:
    start = arm.read_state().positions
    time.sleep(0.1)
    assert arm.read_state().positions == pytest.approx(start, abs=0.1)
    goal = start + np.array([10.0, -15.0, 20.0, 5.0, -30.0, 12.0])
    arm.write_targets(goal)
    wait_until(lambda: bool(np.abs(arm.read_state().positions - goal).max() < 0.15))
    with pytest.raises(InputError, match="one finite number for each"):
        arm.write_targets([0.0] * 5)
    with pytest.raises(InputError, match="one finite number for each"):
        arm.write_targets([float("nan")] * 6)


def test_the_port_is_the_loops_and_counts_what_is_lost(process: EmulatorProcess, arm: DynamixelArm) -> None:
    port = arm.port()
    assert port is arm.port()
    assert port.joint_count == 6
    process.fault("corrupt probability=0.05")
    fresh = 0

    def ticked() -> bool:
        nonlocal fresh
        answer = port.read()
        fresh += answer is not None and time.monotonic_ns() - answer[1] < 50_000_000
        port.write(arm.read_state().positions + np.sin(fresh * 0.1))
        statistics = arm.statistics()
        return fresh > 100 and statistics["retries"] > 0 and statistics["lost_goals"] > 0

    wait_until(ticked)
    assert arm.life_cycle is LifeCycle.ACTIVE


@pytest.mark.parametrize(
    "servos",
    [
        KOCH.replace("xl330-m288", "xl330-m288-fw44"),
        KOCH.replace("xl330-m288", "xl330-m288-fw52"),
        "1:xl430-w250,2:xl430-w250,3:xl330-m288-fw52,4:xl330-m288-fw44,5:xl330-m288,6:xl330-m288",
    ],
)
def test_older_and_newer_firmware_is_read_too(servos: str, calibration: Path) -> None:
    with emulator("dynamixel", "--servos", servos) as process:
        arm = make_arm(process.address, calibration)
        arm.connect()
        arm.configure()
        arm.activate()
        wait_until(lambda: goes_on(arm))
        arm.disconnect()


def test_settings_are_written_once_and_kept(process: EmulatorProcess, calibration: Path) -> None:
    arm = make_arm(process.address, calibration)
    arm.connect()
    arm.configure()
    for name, joint in CALIBRATION.items():
        assert arm.bus.read(joint["id"], "homing_offset") == joint["homing_offset"], name
        assert arm.bus.read(joint["id"], "return_delay_time") == 0
    assert arm.bus.read(1, "operating_mode") == 4
    assert arm.bus.read(6, "operating_mode") == 5
    assert arm.bus.read(6, "goal_current") == 500
    assert arm.bus.read(3, "position_p_gain") == 1500
    # Again, with torque on: nothing differs, so nothing lets go.
    arm.activate()
    arm.stop(StopPolicy.HOLD)
    arm.configure()
    assert all(arm.bus.read(servo, "torque_enable") == 1 for servo in range(1, 7))
    # A setting that differs is written all the same, and the servo holds again.
    arm.bus.write_eeprom(4, {"min_position_limit": 0})
    arm.configure()
    assert arm.bus.read(4, "min_position_limit") == 850
    assert arm.bus.read(4, "torque_enable") == 1
    arm.disconnect()


def test_stop_holds_or_lets_go(process: EmulatorProcess, arm: DynamixelArm) -> None:
    start = arm.read_state().positions
    arm.write_targets(start + 40.0)
    time.sleep(0.05)
    arm.stop(StopPolicy.HOLD)
    assert arm.life_cycle is LifeCycle.CONFIGURED
    time.sleep(0.3)  # it brakes
    stood = arm.read_state().positions
    time.sleep(0.4)  # longer than the watchdog, which no longer is armed
    assert arm.read_state().positions == pytest.approx(stood, abs=3.0)
    assert arm.bus.read(1, "bus_watchdog") == 0
    assert arm.bus.read(1, "torque_enable") == 1
    arm.stop(StopPolicy.TORQUE_OFF)
    assert arm.bus.read(1, "torque_enable") == 0
    with pytest.raises(RobotError, match="cannot damp"):
        arm.stop(StopPolicy.DAMP)
    with pytest.raises(RobotError, match="must be active"):
        arm.write_targets(start)


def test_while_nobody_reads_the_watchdogs_are_fed(arm: DynamixelArm) -> None:
    time.sleep(0.6)
    assert arm.life_cycle is LifeCycle.ACTIVE
    wait_until(lambda: all(arm.bus.read(servo, "bus_watchdog") == 10 for servo in range(1, 7)))


def test_a_process_that_is_gone_leaves_an_arm_that_stands_still(
    process: EmulatorProcess, calibration: Path
) -> None:
    arm = make_arm(process.address, calibration)
    arm.connect()
    arm.configure()
    arm.activate()
    arm.bus.write(1, "goal_position", arm.bus.read(1, "present_position") + 200_000)
    arm._dismiss()  # what a killed process does: nobody feeds any more
    arm.bus.close()
    time.sleep(0.5)
    with ServoBus(process.address) as bus:
        assert bus.read(1, "bus_watchdog") == -1
        stood = bus.read(1, "present_position")
        time.sleep(0.1)
        assert bus.read(1, "present_position") == stood
        assert bus.read(1, "torque_enable") == 1
        with pytest.raises(RobotError, match="out of range"):
            bus.write(1, "goal_position", stood)
    again = make_arm(process.address, calibration)
    again.connect()
    again.configure()
    again.activate()
    wait_until(lambda: goes_on(again))
    again.disconnect()
    arm.disconnect()


def test_unplugged_for_a_moment_it_goes_on_from_where_it_stands(
    process: EmulatorProcess, arm: DynamixelArm
) -> None:
    stood = arm.read_state().positions
    process.fault("unplug duration=0.4")
    wait_until(lambda: arm.port().trouble == "link_lost")
    assert arm.port().read() is None
    assert not arm.port().write(stood)
    wait_until(lambda: arm.port().trouble == "none")
    wait_until(lambda: goes_on(arm))
    assert arm.life_cycle is LifeCycle.ACTIVE
    assert arm.read_state().positions == pytest.approx(stood, abs=1.0)


def test_unplugged_for_long_it_is_a_fault_until_it_is_plugged_in_again(
    process: EmulatorProcess, arm: DynamixelArm
) -> None:
    process.fault("unplug")
    wait_until(lambda: arm.life_cycle is LifeCycle.ERROR)
    assert "unplugged" in str(arm.fault)
    with pytest.raises(RobotError, match="cannot open"):
        arm.recover()
    assert arm.life_cycle is LifeCycle.ERROR
    arm.stop(StopPolicy.HOLD)  # as far as the wire does
    process.fault("clear unplug")
    wait_until(lambda: _recovers(arm))
    assert arm.life_cycle is LifeCycle.CONFIGURED
    assert arm.fault is None
    arm.activate()
    wait_until(lambda: goes_on(arm))


def _recovers(arm: DynamixelArm) -> bool:
    try:
        arm.recover()
    except RobotError:
        return False
    return True


def test_a_servo_that_is_away_for_a_moment_is_waited_for(process: EmulatorProcess, arm: DynamixelArm) -> None:
    process.fault("absent servo=3 duration=0.5")
    time.sleep(0.2)
    answer = arm.port().read()
    # The others may be heard, but the pose is as old as its oldest joint.
    assert answer is None or time.monotonic_ns() - answer[1] > 100_000_000
    wait_until(lambda: arm.port().trouble == "none" and goes_on(arm))
    assert arm.life_cycle is LifeCycle.ACTIVE


def test_a_servo_that_goes_silent_at_once_leaves_its_last_reading(
    process: EmulatorProcess, calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The thread beside the loop may come too late to have read it.
    monkeypatch.setattr(DynamixelArm, "_attend", lambda _: None)
    arm = make_arm(process.address, calibration)
    arm.connect()
    arm.configure()
    process.fault("absent servo=3")
    gone_ns = time.monotonic_ns()
    state = arm.read_state()
    assert state.time_ns < gone_ns
    assert np.isfinite(state.positions).all()
    arm.disconnect()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("absent servo=3 duration=2.5", r"elbow_flex \(servo 3\) does not answer"),
        ("overload servo=2 duration=0.1", r"shoulder_lift \(servo 2\) has let go: it was loaded"),
        (
            "overtemperature servo=4 celsius=99 duration=0.1",
            r"wrist_flex \(servo 4\) has let go: it is too hot",
        ),
        ("power_loss servo=5 duration=0.1", r"wrist_roll \(servo 5\) lost its power"),
    ],
)
def test_what_it_cannot_mend_is_a_fault_in_words_and_recover_mends_it(
    process: EmulatorProcess, arm: DynamixelArm, fault: str, says: str
) -> None:
    process.fault(fault)
    wait_until(lambda: arm.life_cycle is LifeCycle.ERROR)
    with pytest.raises(RobotError, match=says):
        arm.port()
    assert "recover" in str(arm.fault)
    assert arm._port is not None
    assert arm._port.read() is None
    wait_until(lambda: _recovers(arm))
    assert arm.life_cycle is LifeCycle.CONFIGURED
    arm.activate()
    wait_until(lambda: goes_on(arm))


def test_a_fault_that_stays_is_not_recovered_from(process: EmulatorProcess, arm: DynamixelArm) -> None:
    process.fault("overload servo=2")
    wait_until(lambda: arm.life_cycle is LifeCycle.ERROR)
    with pytest.raises(RobotError, match="has let go"):
        arm.recover()
    assert arm.life_cycle is LifeCycle.ERROR
    assert arm.faults()["shoulder_lift"] == ("overload",)


def test_wrong_servos_are_named_before_anything_is_written(
    process: EmulatorProcess, calibration: Path
) -> None:
    with emulator(
        "dynamixel", "--servos", KOCH.replace("2:xl430", "2:xc430").replace("xc430-w250", "xc430-w150")
    ) as other:
        arm = make_arm(other.address, calibration)
        with pytest.raises(
            RobotError, match=r"shoulder_lift \(servo 2\) is a xc430-w150, expected xl430-w250"
        ):
            arm.connect()
        assert arm.life_cycle is LifeCycle.DISCONNECTED
    process.fault("absent servo=6")
    arm = make_arm(process.address, calibration)
    with pytest.raises(RobotError, match="servo 6 does not answer"):
        arm.connect()


def test_locked_settings_and_another_direction_are_refused(
    process: EmulatorProcess, calibration: Path
) -> None:
    process.fault("locked")
    arm = make_arm(process.address, calibration)
    arm.connect()
    with pytest.raises(
        RobotError, match="refused 0 for return_delay_time: the register cannot be written now"
    ):
        arm.configure()
    process.fault("clear locked")
    arm.bus.write_eeprom(3, {"drive_mode": 1})
    with pytest.raises(RobotError, match="turns the other way round"):
        arm.configure()
    arm.disconnect()


def test_an_offset_of_more_than_half_a_turn_is_no_error_here(tmp_path: Path) -> None:
    joints = {name: dict(joint) for name, joint in CALIBRATION.items()}
    joints["wrist_flex"]["homing_offset"] = -2600
    path = tmp_path / "turned.json"
    path.write_text(json.dumps(joints), encoding="utf-8")
    assert make_arm("/dev/null", path).settings.calibration["wrist_flex"].homing_offset == -2600


def test_an_offset_that_a_servo_would_ignore_in_its_mode_is_refused(tmp_path: Path) -> None:
    servos = dict(load_robot("koch").connection["servos"])
    servos["wrist_flex"] = {**servos["wrist_flex"], "mode": "position"}
    joints = {name: dict(joint) for name, joint in CALIBRATION.items()}
    path = tmp_path / "turned.json"
    for offset in (1024, -1025):
        joints["wrist_flex"]["homing_offset"] = offset
        path.write_text(json.dumps(joints), encoding="utf-8")
        if offset == 1024:
            make_arm("/dev/null", path, servos=servos)
        else:
            with pytest.raises(InputError, match="in mode position a servo ignores one beyond 1024"):
                make_arm("/dev/null", path, servos=servos)


ACROSS = {"elbow_flex": (1900, 900, 3200), "gripper": (1900, 1800, 2900)}
"""Offset and range of joints whose ranges lie across the ends of their encoders."""


@pytest.fixture
def across(tmp_path: Path) -> Path:
    joints = {name: dict(joint) for name, joint in CALIBRATION.items()}
    for name, (offset, low, high) in ACROSS.items():
        joints[name] |= {"homing_offset": offset, "range_min": low, "range_max": high}
    path = tmp_path / "across.json"
    path.write_text(json.dumps(joints), encoding="utf-8")
    return path


def test_a_joint_that_was_switched_on_beyond_its_encoder_s_end_stands_where_it_stands(across: Path) -> None:
    """A servo counts from its encoder's turn on: elbow and gripper here read a whole turn too much."""
    servos = KOCH.replace("3:xl330-m288", "3:xl330-m288:3500").replace("6:xl330-m288", "6:xl330-m288:4090")
    with emulator("dynamixel", "--servos", servos) as process:
        arm = make_arm(process.address, across)
        arm.connect()
        arm.configure()
        start = arm.read_state().positions
        assert start[2] == pytest.approx((3500 - 4096 + 1900 - 2050) * 360 / 4095)
        assert start[5] == pytest.approx((4090 - 4096 + 1900 - 1800) / 1100 * 100)
        arm.activate()
        before = arm.bus.read_many([3, 6], "present_position")
        assert arm.read_state().positions == pytest.approx(start, abs=0.2)
        target = start + np.array([0.0, 0.0, 5.0, 0.0, 0.0, 40.0])
        arm.write_targets(target)
        wait_until(lambda: bool(np.abs(arm.read_state().positions - target).max() < 0.2))
        after = arm.bus.read_many([3, 6], "present_position")
        # The motors have gone the small way, and not back by a turn.
        assert after[3] - before[3] == pytest.approx(5.0 * 4095 / 360, abs=3)
        assert after[6] - before[6] == pytest.approx(0.4 * 1100, abs=3)
        arm.disconnect()


def test_turns_are_counted_anew_after_a_loss_of_power(across: Path) -> None:
    with emulator("dynamixel", "--servos", KOCH.replace("3:xl330-m288", "3:xl330-m288:100")) as process:
        arm = make_arm(process.address, across)
        arm.connect()
        arm.configure()
        arm.activate()
        target = arm.read_state().positions - np.array([0.0, 0.0, 40.0, 0.0, 0.0, 0.0])
        arm.write_targets(target)  # over the encoder's end, downwards
        wait_until(lambda: bool(np.abs(arm.read_state().positions - target).max() < 0.2))
        assert arm.bus.read(3, "present_position") < 1900
        process.fault("power_loss servo=3 duration=0.1")
        wait_until(lambda: arm.life_cycle is LifeCycle.ERROR)
        time.sleep(0.5)
        arm.recover()
        assert arm.bus.read(3, "present_position") > 1900 + 2048
        assert arm.read_state().positions == pytest.approx(target, abs=0.2)
        arm.activate()
        arm.write_targets(target + np.array([0.0, 0.0, 10.0, 0.0, 0.0, 0.0]))
        wait_until(lambda: bool(abs(arm.read_state().positions[2] - target[2] - 10.0) < 0.2))
        assert arm.bus.read(3, "present_position") > 1900 + 2048
        arm.disconnect()


def test_a_servo_that_stays_within_a_turn_is_not_driven_over_its_end(tmp_path: Path) -> None:
    servos = dict(load_robot("koch").connection["servos"])
    servos["elbow_flex"] = {**servos["elbow_flex"], "mode": "position"}
    joints = {name: dict(joint) for name, joint in CALIBRATION.items()}
    joints["elbow_flex"] |= {"homing_offset": 1000, "range_min": 100, "range_max": 3200}
    path = tmp_path / "across.json"
    path.write_text(json.dumps(joints), encoding="utf-8")
    with emulator("dynamixel", "--servos", KOCH.replace("3:xl330-m288", "3:xl330-m288:4000")) as process:
        arm = make_arm(process.address, path, servos=servos)
        arm.connect()
        with pytest.raises(RobotError, match=r"elbow_flex .* beyond the end of its encoder's turn"):
            arm.configure()
        arm.disconnect()


def test_a_calibration_is_written_in_a_mode_that_heeds_it(process: EmulatorProcess) -> None:
    def joint(servo: int, offset: int) -> JointCalibration:
        return JointCalibration(servo, 0, offset, 900, 3000)

    with ServoBus(process.address) as bus:
        bus.write_eeprom(3, {"homing_offset": 1500})
        assert (bus.homing_offset(3), bus.read(3, "present_position")) == (0, 2048)
        bus.write_calibration({"a": joint(3, -1500), "b": joint(4, 1024), "c": joint(5, 4097)})
        assert [bus.read(servo, "operating_mode") for servo in (3, 4, 5)] == [4, 3, 4]
        for servo, offset in ((3, -1500), (4, 1024), (5, 4097)):
            assert bus.homing_offset(servo) == bus.read(servo, "homing_offset") == offset
            assert bus.read(servo, "present_position") == 2048 + offset


def test_connections_that_cannot_be_are_refused(calibration: Path) -> None:
    with pytest.raises(InputError, match="--port"):
        make_arm("", calibration, port=None)
    with pytest.raises(InputError, match="no such key"):
        make_arm("/dev/null", calibration, prot=1)
    with pytest.raises(InputError, match="bus_watchdog_s"):
        make_arm("/dev/null", calibration, bus_watchdog_s=9.0)
    servos = dict(load_robot("koch").connection["servos"])
    with pytest.raises(InputError, match="is servo 9 here and servo 1 in its calibration"):
        make_arm("/dev/null", calibration, servos={**servos, "shoulder_pan": {"id": 9, "mode": "position"}})
    with pytest.raises(RobotError, match="serial device"):
        make_arm("/dev/null", calibration).connect()


def test_the_leader_is_read_and_never_drives(process: EmulatorProcess, calibration: Path) -> None:
    leader = open_leader("koch", process.address, None, calibration)
    leader.connect()
    leader.configure()
    leader.activate()
    assert leader.read_state().positions[2] == pytest.approx((2048 - 2050) * 360 / 4095)
    assert all(leader.bus.read(servo, "torque_enable") == 0 for servo in range(1, 7))
    with pytest.raises(RobotError, match="moved by a person"):
        leader.write_targets([0.0] * 6)
    leader.stop(StopPolicy.HOLD)
    assert leader.life_cycle is LifeCycle.CONFIGURED
    leader.disconnect()


def test_servos_are_found_and_set_up_one_by_one() -> None:
    with (
        emulator("dynamixel", "--servos", "1:xl330-m288,7:xl430-w250") as process,
        ServoBus(process.address) as bus,
    ):
        for ids in (range(9), range(253)):
            found = bus.scan(ids)
            assert [(servo.servo, servo.model) for servo in found] == [(1, "xl330-m288"), (7, "xl430-w250")]
        assert [servo.servo for servo in bus.scan([7, 8])] == [7]
        with pytest.raises(RobotError, match="id 7 is on the line already"):
            bus.set_id(1, 7)
        bus.set_id(1, 4)
        assert not bus.ping(1)
        assert bus.identify(4) is not None
        bus.set_baud(4, 1_000_000)
        assert bus.read(4, "baud_rate") == 3
        with pytest.raises(InputError, match="no baud rate"):
            bus.set_baud(4, 12345)
        bus.set_torque([4, 7], Torque.ON)
        assert bus.read_many([4, 7], "torque_enable") == {4: 1, 7: 1}
        with pytest.raises(RobotError, match="refused"):
            bus.write(4, "homing_offset", 5)
        bus.reset_calibration(4)
        assert bus.read(4, "operating_mode") == 4
        with pytest.raises(InputError, match="has no register"):
            bus.read(7, "goal_current")
        with pytest.raises(InputError, match="not lasting"):
            bus.write_eeprom(7, {"torque_enable": 1})
