"""The follower's life on the emulated arm: what it checks, what it writes, how it holds and lets go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from molmoact2_drivers import JointUnit, LifeCycle, Measurement, Robot, StopPolicy
from molmoact2_drivers.calibration import SO_JOINTS, ArmCalibration, degrees_of, percent_of
from molmoact2_drivers.feetech import ServoBus, SoFollower, Torque, from_config, open_leader
from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.runtime.hardware import with_connection

from .conftest import EmulatedArm, disconnecting, eventually

_LEROBOT = {
    "return_delay_time": 0,
    "maximum_acceleration": 254,
    "acceleration": 254,
    "operating_mode": 0,
    "p_coefficient": 16,
    "i_coefficient": 0,
    "d_coefficient": 32,
}


def test_a_follower_goes_through_its_life(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with emulated_arm.follower() as arm:
        assert isinstance(arm, Robot)
        assert arm.life_cycle is LifeCycle.DISCONNECTED
        with pytest.raises(RobotError, match="is disconnected, but must be"):
            arm.read_state()
        arm.connect()
        assert arm.life_cycle is LifeCycle.CONNECTED
        with pytest.raises(RobotError, match="is connected, but must be configured"):
            arm.activate()
        state = arm.read_state()
        arm.configure()
        assert arm.life_cycle is LifeCycle.CONFIGURED
        arm.activate()
        assert arm.life_cycle is LifeCycle.ACTIVE
        assert arm.fault is None
        assert arm.faults() == {}
        assert arm.port().joint_count == 6
        assert arm.port() is arm.port()
        np.testing.assert_allclose(arm.read_state().positions, state.positions, atol=0.5)
        arm.stop(StopPolicy.DAMP)
        assert arm.life_cycle is LifeCycle.CONFIGURED
        arm.disconnect()
        assert arm.life_cycle is LifeCycle.DISCONNECTED
        assert arm.name == f"so101 on {emulated_arm.address}"


def test_capabilities_are_the_calibrated_ranges(emulated: Callable[..., EmulatedArm]) -> None:
    arm = emulated().follower()
    with arm as follower:
        capabilities = follower.capabilities
    assert capabilities.joint_names == SO_JOINTS
    pan = capabilities.joints[0]
    assert pan.unit is JointUnit.DEGREES
    assert (pan.lower, pan.upper) == pytest.approx((-1247.5 * 360 / 4095, 1247.5 * 360 / 4095))
    gripper = capabilities.joints[-1]
    assert (gripper.unit, gripper.lower, gripper.upper) == (JointUnit.PERCENT, 0.0, 100.0)
    assert capabilities.measures == {Measurement.CURRENT, Measurement.TEMPERATURE}
    assert capabilities.stop_policies == frozenset(StopPolicy)


def test_states_are_in_degrees_and_percent_with_what_the_servos_measure(
    emulated: Callable[..., EmulatedArm],
) -> None:
    emulated_arm = emulated()
    with emulated_arm.follower() as arm:
        arm.connect()
        for servo, degrees in ((1, 17.3), (3, -41.9)):
            emulated_arm.fault(f"hand servo={servo} degrees={degrees}")
        assert eventually(lambda: abs(arm.read_state().positions[2] + 41.9) < 0.1)
        ticks = arm.bus.read_many(range(1, 7), "present_position")
        state = arm.read_state()
        for name, position in zip(SO_JOINTS, state.positions, strict=True):
            joint = emulated_arm.calibration[name]
            convert = percent_of if name == "gripper" else degrees_of
            assert position == convert(joint, ticks[joint.id])
        assert state.temperatures is not None
        assert ((state.temperatures > 20.0) & (state.temperatures < 40.0)).all()
        assert state.currents is not None
        assert (np.abs(state.currents) < 0.1).all()
        assert state.velocities is None


def test_it_writes_what_lerobot_writes_and_only_what_differs(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    changed = {"p_coefficient": 32, "d_coefficient": 0, "return_delay_time": 250, "homing_offset": 99}
    with ServoBus(emulated_arm.address) as bus:
        for servo in range(1, 7):
            bus.write_eeprom(servo, changed)
        bus.write_eeprom(6, {"max_torque_limit": 1000, "protection_current": 310, "overload_torque": 80})
    with emulated_arm.follower() as arm:
        arm.connect()
        with pytest.raises(RobotError, match=r"another calibration.*configure it first"):
            arm.read_state()
        arm.configure()
        arm.read_state()
        for name, joint in emulated_arm.calibration.items():
            wanted = {**_LEROBOT, "homing_offset": joint.homing_offset}
            if name == "gripper":
                wanted |= {"max_torque_limit": 500, "protection_current": 250, "overload_torque": 25}
                wanted |= {"torque_limit": 500}
            assert {register: arm.bus.read(joint.id, register) for register in wanted} == wanted
            assert arm.bus.read(joint.id, "lock") == 1
        assert arm.bus.write_calibration(emulated_arm.calibration) == {servo: {} for servo in range(1, 7)}


def test_an_arm_that_holds_is_not_dropped_for_its_settings(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with ServoBus(emulated_arm.address) as bus:
        bus.write_eeprom(2, {"p_coefficient": 32})
        bus.write(2, "goal_position", bus.read(2, "present_position"))
        bus.set_torque([2], Torque.ON)
    with emulated_arm.follower() as arm:
        arm.connect()
        with pytest.raises(RobotError, match=r"shoulder_lift .* would have to let go .*p_coefficient"):
            arm.configure()
        assert arm.bus.read(2, "torque_enable") == Torque.ON


def test_activation_moves_nothing_whatever_the_goal_was(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with emulated_arm.follower() as arm:
        arm.connect()
        arm.configure()
        for servo in range(1, 7):
            arm.bus.write(servo, "goal_position", 2300)
        before = arm.bus.read_many(range(1, 7), "present_position")
        arm.activate()
        assert arm.bus.read_many(range(1, 7), "torque_enable") == dict.fromkeys(range(1, 7), Torque.ON)
        for _ in range(50):
            present = arm.bus.read_many(range(1, 7), "present_position")
            assert max(abs(present[servo] - before[servo]) for servo in present) <= 3


def test_a_joint_outside_its_range_is_not_pulled_into_it(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    narrow = dict(emulated_arm.calibration)
    elbow = narrow["elbow_flex"]
    narrow["elbow_flex"] = type(elbow)(elbow.id, 0, elbow.homing_offset, 2200, elbow.range_max)
    with disconnecting(SoFollower(emulated_arm.address, ArmCalibration(narrow))) as arm:
        arm.connect()
        arm.configure()
        with pytest.raises(RobotError, match=r"elbow_flex stands at .* outside its range 2200 to"):
            arm.activate()
        assert arm.life_cycle is LifeCycle.CONFIGURED
        assert set(arm.bus.read_many(range(1, 7), "torque_enable").values()) == {Torque.OFF}


def test_targets_are_followed_and_clamped(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with emulated_arm.follower() as arm:
        arm.connect()
        arm.configure()
        with pytest.raises(RobotError, match="must be active"):
            arm.write_targets(np.zeros(6))
        arm.activate()
        target = arm.read_state().positions + np.array([10.0, -10.0, 10.0, -10.0, 10.0, 20.0])
        arm.write_targets(target)
        assert eventually(lambda: bool(np.abs(arm.read_state().positions - target).max() < 1.0))
        arm.write_targets([1e9, *target[1:]])
        assert arm.bus.read(1, "goal_position") == emulated_arm.calibration["shoulder_pan"].range_max
        for wrong in (np.zeros(5), [np.nan] * 6, [np.inf] * 6):
            with pytest.raises(InputError, match=r"six|6 finite"):
                arm.write_targets(wrong)


@pytest.mark.parametrize(
    ("policy", "torque"),
    [
        (StopPolicy.HOLD, Torque.ON),
        (StopPolicy.DAMP, Torque.DAMPED),
        (StopPolicy.TORQUE_OFF, Torque.OFF),
    ],
)
def test_each_stop_does_what_it_says(
    emulated: Callable[..., EmulatedArm], policy: StopPolicy, torque: Torque
) -> None:
    with emulated().follower() as arm:
        arm.connect()
        arm.configure()
        arm.activate()
        port = arm.port()
        assert port.write(arm.read_state().positions) == "ok"
        arm.stop(policy)
        assert arm.bus.read_many(range(1, 7), "torque_enable") == dict.fromkeys(range(1, 7), torque)
        assert port.write(np.zeros(6)) == "failed"
        arm.activate()
        assert arm.life_cycle is LifeCycle.ACTIVE


def test_disconnecting_leaves_the_arm_held(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with emulated_arm.follower() as arm:
        arm.connect()
        arm.configure()
        arm.activate()
        arm.disconnect()
        arm.disconnect()
    with ServoBus(emulated_arm.address) as bus:
        assert set(bus.read_many(range(1, 7), "torque_enable").values()) == {Torque.ON}
    # The next session takes the held arm over without letting it fall.
    with emulated_arm.follower() as arm:
        arm.connect()
        arm.configure()
        assert set(arm.bus.read_many(range(1, 7), "torque_enable").values()) == {Torque.ON}
        arm.activate()


def test_mixed_firmware_is_refused(emulated: Callable[..., EmulatedArm]) -> None:
    with emulated("--firmware", "4=3.9").follower() as arm:
        with pytest.raises(RobotError, match=r"different firmware \(.*wrist_flex 3\.9.*bring all to one"):
            arm.connect()
        assert arm.life_cycle is LifeCycle.DISCONNECTED


def test_absent_servos_are_named_and_an_arm_without_power_is_told_as_such(
    emulated: Callable[..., EmulatedArm],
) -> None:
    emulated_arm = emulated()
    with emulated_arm.follower() as arm:
        emulated_arm.fault("absent servo=3")
        assert eventually(lambda: ": elbow_flex (servo 3) not answering" in _refusal(arm))
        emulated_arm.fault("power_loss")
        assert eventually(
            lambda: "no servo answers at 1000000 baud; switch the arm's power on" in _refusal(arm)
        )
        assert arm.life_cycle is LifeCycle.DISCONNECTED


def _refusal(arm: SoFollower) -> str:
    try:
        arm.connect()
    except RobotError as error:
        return f"{error}"
    arm.disconnect()
    return ""


def test_a_configuration_makes_a_follower(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    assert emulated_arm.calibration.path is not None
    config = with_connection(
        load_robot("so101"), port=emulated_arm.address, calibration=emulated_arm.calibration.path
    )
    with disconnecting(from_config(config)) as arm:
        arm.connect()
        arm.configure()
        assert arm.capabilities.joint_names == tuple(config.joints)
    with pytest.raises(InputError, match="which port"):
        from_config(load_robot("so100"))


def test_a_calibration_is_found_at_lerobots_place(
    emulated: Callable[..., EmulatedArm], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    emulated_arm = emulated()
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path / "home"))
    with pytest.raises(InputError, match=r"no calibration in .*so_leader or .*so101_leader; make one"):
        open_leader("so101", emulated_arm.address, None)
    config = with_connection(load_robot("so101"), port=emulated_arm.address, id="mine")
    with pytest.raises(InputError, match="no calibration 'mine'"):
        from_config(config)
    folder = tmp_path / "home" / "robots" / "so101_follower"
    folder.mkdir(parents=True)
    assert emulated_arm.calibration.path is not None
    (folder / "mine.json").write_bytes(emulated_arm.calibration.path.read_bytes())
    assert dict(from_config(config).calibration) == dict(emulated_arm.calibration)


def test_wrong_keys_of_the_connection_are_errors() -> None:
    config = load_robot("so101")
    config = type(config)(**{**vars(config), "connection": {"prot": "/dev/ttyACM0"}})
    with pytest.raises(InputError, match=r"connection\.prot: no such key; did you mean port"):
        from_config(config)
