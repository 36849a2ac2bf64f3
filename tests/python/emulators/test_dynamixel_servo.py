"""One emulated servo without a wire: who may write what, how it moves, when it stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_edge.errors import InputError
from molmoact2_emulators import dynamixel_packet as wire
from molmoact2_emulators.dynamixel import parse_servos
from molmoact2_emulators.dynamixel_servo import Ailments, Servo
from molmoact2_emulators.dynamixel_table import (
    CURRENT_POSITION_MODE,
    EXTENDED_LIMIT,
    EXTENDED_POSITION_MODE,
    MODELS,
    VELOCITY_MODE,
)

TORQUE, WATCHDOG, PROFILE_VELOCITY, GOAL = 64, 98, 112, 116


def make(model: str = "xl330-m288", position: int = 2048) -> Servo:
    return Servo(MODELS[model], 3, position, 0.0)


def put(servo: Servo, address: int, size: int, value: int) -> int:
    return servo.write(address, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))


def test_it_goes_to_its_goal_and_stays_there() -> None:
    servo = make()
    assert put(servo, TORQUE, 1, 1) == 0
    assert put(servo, GOAL, 4, 3000) == 0
    servo.advance(0.05)
    assert 2048 < servo["Present Position"] < 3000
    assert servo["Moving"] == 1
    assert servo["Present Velocity"] > 0
    assert servo["Present Current"] > 0
    servo.advance(3.0)
    assert servo["Present Position"] == 3000
    assert servo["Moving"] == 0


def test_a_profile_limits_its_speed() -> None:
    servo = make()
    put(servo, PROFILE_VELOCITY, 4, 30)  # 6.87 turns a minute: 469 ticks a second
    put(servo, TORQUE, 1, 1)
    put(servo, GOAL, 4, 4000)
    servo.advance(0.1)
    before = servo["Present Position"]
    servo.advance(1.1)
    assert servo["Present Position"] - before == pytest.approx(469, abs=5)


def test_without_torque_nothing_moves_and_another_direction_counts_backwards() -> None:
    servo = make(position=2100)
    put(servo, GOAL, 4, 3000)
    servo.advance(1.0)
    assert servo["Present Position"] == 2100
    assert put(servo, 20, 4, 800) == 0
    servo.advance(1.1)
    assert servo["Present Position"] == 2900
    assert put(servo, 10, 1, 1) == 0
    servo.advance(1.2)
    assert servo["Present Position"] == -1300


def test_a_homing_offset_beyond_a_quarter_turn_counts_only_where_turns_do() -> None:
    servo = make(position=2100)
    assert put(servo, 20, 4, 1025) == 0
    assert servo["Present Position"] == 2100
    assert put(servo, 20, 4, -1024) == 0
    assert servo["Present Position"] == 1076
    assert put(servo, 20, 4, 1_044_480) == wire.DATA_RANGE
    for mode in (EXTENDED_POSITION_MODE, CURRENT_POSITION_MODE):
        assert put(servo, 11, 1, mode) == 0
        assert put(servo, 20, 4, -1_044_479) == 0
        assert servo["Present Position"] == 2100 - 1_044_479


def test_a_hand_turns_the_shaft_as_long_as_the_motor_lets_go() -> None:
    servo = make()
    servo.ailments = Ailments(hand=5000.0)
    servo.advance(1.0)
    assert 2048 < servo["Present Position"] < 5000
    servo.advance(3.0)
    assert servo["Present Position"] == 5000
    put(servo, 11, 1, EXTENDED_POSITION_MODE)
    put(servo, TORQUE, 1, 1)
    servo.ailments = Ailments(hand=100.0)
    servo.advance(6.0)
    assert servo["Present Position"] == 5000


def test_beyond_a_turn_it_counts_on_until_it_loses_its_power() -> None:
    servo = make()
    put(servo, 11, 1, 4)
    put(servo, TORQUE, 1, 1)
    put(servo, GOAL, 4, -3000)
    servo.advance(5.0)
    assert servo["Present Position"] == -3000
    servo.reboot(5.0)
    assert not servo.answers(5.1)
    assert servo.answers(6.0)
    assert servo["Present Position"] == 1096
    assert servo["Torque Enable"] == 0


def test_velocity_mode_turns_on_and_on() -> None:
    servo = make()
    put(servo, 11, 1, VELOCITY_MODE)
    put(servo, TORQUE, 1, 1)
    assert put(servo, 104, 4, -100) == 0  # 22.9 turns a minute
    assert put(servo, 104, 4, 1000) == wire.DATA_LIMIT
    servo.advance(10.0)
    assert servo["Present Position"] == pytest.approx(2048 - 10 * 22.9 / 60 * 4096, abs=3)


def test_the_watchdog_bites_to_the_moment_and_only_with_torque() -> None:
    servo = make()
    put(servo, WATCHDOG, 1, 5)
    servo.advance(1.0)
    assert servo["Bus Watchdog"] == 5
    put(servo, TORQUE, 1, 1)
    servo.hear(1.0)
    servo.advance(1.09)
    assert servo["Bus Watchdog"] == 5
    servo.hear(1.09)
    servo.advance(1.18)
    assert servo["Bus Watchdog"] == 5
    servo.advance(1.3)
    assert servo["Bus Watchdog"] == -1
    assert put(servo, GOAL, 4, 100) == wire.DATA_RANGE
    assert put(servo, WATCHDOG, 1, 0) == 0
    assert put(servo, GOAL, 4, 100) == 0


def test_indirect_data_are_what_they_point_to() -> None:
    servo = make("xl330-m288-fw52")
    assert servo.write(168, (116).to_bytes(2, "little") + (117).to_bytes(2, "little")) == 0
    assert servo.write(172, (118).to_bytes(2, "little") + (119).to_bytes(2, "little")) == 0
    assert servo.read(208, 4) == (0, (2048).to_bytes(4, "little"))
    assert servo.write(208, (1500).to_bytes(4, "little")) == 0
    assert servo["Goal Position"] == 1500
    assert servo.write(208, b"\x01") == wire.DATA_LENGTH
    assert servo.write(168, (7).to_bytes(2, "little")) == wire.DATA_RANGE
    assert servo.read(250, 10)[0] == wire.ACCESS


@given(
    st.sampled_from(sorted(MODELS)),
    st.lists(
        st.tuples(st.integers(0, 255), st.binary(min_size=1, max_size=8), st.floats(0.0, 2.0)),
        min_size=1,
        max_size=30,
    ),
)
def test_no_sequence_of_writes_breaks_it(model: str, writes: list[tuple[int, bytes, float]]) -> None:
    servo = make(model)
    now_s = 0.0
    for address, data, seconds in writes:
        before = servo.read(0, 256)[1]
        error = servo.write(address, data)
        if error:
            assert error in (wire.DATA_RANGE, wire.DATA_LENGTH, wire.DATA_LIMIT, wire.ACCESS)
            # Refused as a whole, unless it went through the indirect table, where each value is one of its own.
            assert address >= servo.model.indirect_data - 8 or servo.read(0, 256)[1] == before
        now_s += seconds
        servo.hear(now_s)
        servo.advance(now_s)
        assert servo["Torque Enable"] in (0, 1)
        assert abs(servo["Goal Position"]) <= EXTENDED_LIMIT
        assert servo["ID"] <= 252


def test_lines_that_cannot_be_are_refused() -> None:
    for text in ("1", "x:xl430-w250", "1:xl999", "1:xl430-w250,1:xl430-w250", "253:xl430-w250"):
        with pytest.raises(InputError, match="servos"):
            parse_servos(text, 0.0)
    with pytest.raises(InputError, match=r"baud must be one of 9600, 57600, .*, got 500000"):
        parse_servos("1:xl430-w250", 0.0, 500_000)
