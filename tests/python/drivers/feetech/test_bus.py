"""Servos one by one, on the emulated line: found, read, written, set up; and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from molmoact2_drivers.feetech import BAUDS, ServoBus, Torque, scan_port
from molmoact2_edge.errors import InputError, RobotError

from .conftest import EmulatedArm, eventually


def test_a_scan_finds_every_servo_and_says_what_it_is(emulated: Callable[..., EmulatedArm]) -> None:
    arm = emulated("--firmware", "3=3.9")
    with ServoBus(arm.address) as bus:
        found = bus.scan(range(10))
    assert [servo.servo for servo in found] == [1, 2, 3, 4, 5, 6]
    assert {servo.model for servo in found} == {"sts3215"}
    assert {servo.model_number for servo in found} == {777}
    assert [servo.firmware for servo in found] == ["3.10", "3.10", "3.9", "3.10", "3.10", "3.10"]
    assert {servo.baud for servo in found} == {1_000_000}
    assert {servo.errors for servo in found} == {()}


def test_registers_are_read_with_their_sign_and_written_with_a_check(
    emulated: Callable[..., EmulatedArm],
) -> None:
    arm = emulated()
    with ServoBus(arm.address) as bus:
        assert bus.read(2, "homing_offset") == -260
        assert bus.read_many([1, 2, 5], "homing_offset") == {1: 131, 2: -260, 5: 402}
        bus.write_checked(2, "acceleration", 77)
        assert bus.read(2, "acceleration") == 77
        with pytest.raises(InputError, match="no register 'goal'"):
            bus.read(1, "goal")
        with pytest.raises(InputError, match="cannot be written"):
            bus.write(1, "present_position", 0)
        with pytest.raises(InputError, match="acceleration holds 0 to 255, got 256"):
            bus.write(1, "acceleration", 256)
        with pytest.raises(InputError, match="id is 0 to 253"):
            bus.ping(254)
        with pytest.raises(RobotError, match=r"servo 9 .* does not answer to a read of lock at 1000000 baud"):
            bus.read(9, "lock")
        assert bus.statistics()["exchanges"] > 0


def test_only_what_differs_is_written_to_the_eeprom_and_it_is_locked_again(
    emulated: Callable[..., EmulatedArm],
) -> None:
    arm = emulated()
    with ServoBus(arm.address) as bus:
        wanted = {"p_coefficient": 20, "homing_offset": -260}
        assert bus.write_eeprom(2, wanted) == {"p_coefficient": 20}
        assert bus.read(2, "lock") == 1
        assert bus.write_eeprom(2, wanted) == {}
        arm.fault("power_loss")
        assert eventually(lambda: not bus.ping(2))
        arm.fault("clear power_loss")
        assert eventually(lambda: bus.ping(2))
        assert bus.read(2, "p_coefficient") == 20
        with pytest.raises(InputError, match="not kept without power"):
            bus.write_eeprom(2, {"acceleration": 1})


def test_an_eeprom_that_stays_locked_is_told(emulated: Callable[..., EmulatedArm]) -> None:
    arm = emulated()
    with ServoBus(arm.address) as bus:
        arm.fault("locked")

        def refusal() -> str:
            # It can be written until the emulator has seen the fault.
            try:
                bus.write_eeprom(4, {"p_coefficient": 31 if bus.read(4, "p_coefficient") == 16 else 16})
            except RobotError as error:
                return f"{error}"
            return ""

        assert eventually(lambda: "keeps p_coefficient at" in refusal())
        assert "servo 4" in refusal()
        assert "its EEPROM is locked or worn" in refusal()
        assert bus.read(4, "lock") == 1


def test_a_servo_gets_another_id_unless_it_is_taken(emulated: Callable[..., EmulatedArm]) -> None:
    arm = emulated()
    with ServoBus(arm.address) as bus:
        with pytest.raises(RobotError, match="has the id 2 already"):
            bus.set_id(1, 2)
        bus.set_id(1, 17)
        assert bus.ping(17)
        assert not bus.ping(1)
        assert bus.read(17, "lock") == 1
        assert bus.read(17, "torque_enable") == Torque.OFF


def test_a_servo_gets_another_baud_rate_and_is_found_there(emulated: Callable[..., EmulatedArm]) -> None:
    arm = emulated()
    with ServoBus(arm.address) as bus:
        bus.set_baud(3, 115_200)
        assert not bus.ping(3)
        with pytest.raises(InputError, match="the servos have the baud rates 1000000, "):
            bus.set_baud(1, 9_600)
    found = scan_port(arm.address, (1_000_000, 115_200), range(1, 7))
    assert [(servo.servo, servo.baud) for servo in found] == [
        *[(servo, 1_000_000) for servo in (1, 2, 4, 5, 6)],
        (3, 115_200),
    ]
    with ServoBus(arm.address, 115_200) as bus:
        bus.set_baud(3, 1_000_000)
    with ServoBus(arm.address) as bus:
        assert bus.ping(3)
    assert BAUDS[0] == 1_000_000


def test_a_calibration_is_taken_away_and_put_back(emulated: Callable[..., EmulatedArm]) -> None:
    arm = emulated()
    with ServoBus(arm.address) as bus:
        before = bus.read(1, "present_position")
        bus.reset_calibration(1)
        assert bus.read(1, "present_position") == before + 131
        assert bus.read(1, "max_position_limit") == 4095
        written = bus.write_calibration(arm.calibration)
        assert written == {
            1: {"homing_offset": 131, "min_position_limit": 812, "max_position_limit": 3307},
            **{servo: {} for servo in (2, 3, 4, 5, 6)},
        }
        assert bus.read(1, "present_position") == before


def test_a_port_that_is_not_there_or_taken_says_what_to_do(emulated: Callable[..., EmulatedArm]) -> None:
    with pytest.raises(RobotError, match=r"cannot open /dev/no-such-port: No such file.*find-port"):
        ServoBus("/dev/no-such-port").open()
    arm = emulated()
    with ServoBus(arm.address), pytest.raises(RobotError, match="another program has it"):
        ServoBus(arm.address).open()
    with pytest.raises(InputError, match="which port"):
        ServoBus("")


def test_an_unplugged_port_is_told_as_such(emulated: Callable[..., EmulatedArm]) -> None:
    arm = emulated()
    with ServoBus(arm.address) as bus:
        assert bus.ping(1)
        arm.fault("unplug")
        assert eventually(lambda: not (bus.ping(1) or bus.is_open))
        with pytest.raises(RobotError, match="was unplugged"):
            bus.read(1, "lock")
        with pytest.raises(RobotError, match="was unplugged"):
            bus.scan([1])
