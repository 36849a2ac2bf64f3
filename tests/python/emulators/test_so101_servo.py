"""One STS3215: registers, lock, torque, protections, motion. Time passes only where a test says so."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from molmoact2_emulators import feetech_registers as reg
from molmoact2_emulators.feetech_registers import STS3215, Memory, Register
from molmoact2_emulators.feetech_servo import Servo, Torque
from molmoact2_emulators.so101_mechanics import LightMechanics

STEP_S = 0.002


class Bench:
    """A servo with nothing but its own shaft."""

    def __init__(self, position: float = 2047.0, **factory: int) -> None:
        self.servo = Servo()
        self.servo.set_factory(**factory)
        self.servo.shaft.position = position
        self.servo.lose_power()
        self.mechanics = LightMechanics([self.servo.shaft], [(-1e6, 1e6)])
        self.positions: list[float] = []

    def write(self, register: Register, value: int) -> None:
        self.servo.write(register.address, register.encode(value).to_bytes(register.size, "little"))

    def read(self, register: Register) -> int:
        return register.decode(int.from_bytes(self.servo.read(register.address, register.size), "little"))

    def run(self, seconds: float, hand: float | None = None) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.mechanics.step([self.servo.step(STEP_S)], [hand])
            self.positions.append(self.servo.shaft.position)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_table_overlaps_nowhere() -> None:
    taken: set[int] = set()
    for register in STS3215:
        place = set(range(register.address, register.address + register.size))
        assert not place & taken, register.name
        taken |= place
        assert register.factory < 1 << 8 * register.size
        assert register.highest is None or register.factory <= register.highest
    assert max(taken) < reg.MEMORY_SIZE


@pytest.mark.parametrize(
    ("name", "address", "size"),
    [
        ("model", 3, 2), ("id", 5, 1), ("baud", 6, 1), ("return_delay", 7, 1), ("response_level", 8, 1),
        ("min_angle", 9, 2), ("max_angle", 11, 2), ("max_temperature", 13, 1), ("max_torque", 16, 2), ("phase", 18, 1),
        ("unloading", 19, 1), ("p_gain", 21, 1), ("d_gain", 22, 1), ("i_gain", 23, 1), ("protection_current", 28, 2),
        ("homing_offset", 31, 2), ("mode", 33, 1), ("protective_torque", 34, 1), ("protection_time", 35, 1),
        ("overload_torque", 36, 1), ("torque_enable", 40, 1), ("acceleration", 41, 1), ("goal_position", 42, 2),
        ("goal_time", 44, 2), ("goal_speed", 46, 2), ("torque_limit", 48, 2), ("lock", 55, 1),
        ("present_position", 56, 2), ("present_speed", 58, 2), ("present_load", 60, 2), ("present_voltage", 62, 1),
        ("present_temperature", 63, 1), ("status", 65, 1), ("moving", 66, 1), ("present_current", 69, 2),
    ],
)  # fmt: skip
def test_the_table_is_the_published_one(name: str, address: int, size: int) -> None:
    register = next(register for register in STS3215 if register.name == name)
    assert (register.address, register.size) == (address, size)


@given(
    st.sampled_from([register for register in STS3215 if register.sign_bit is not None]),
    st.integers(-70000, 70000),
)
def test_signs_and_magnitudes(register: Register, value: int) -> None:
    assert register.sign_bit is not None
    most = (1 << register.sign_bit) - 1
    stored = register.encode(value)
    assert 0 <= stored < 1 << 16
    assert register.decode(stored) == max(-most, min(most, value))
    assert bool(stored >> register.sign_bit & 1) == (value < 0)


def test_identity(bench: Bench) -> None:
    assert bench.servo.read(0, 5) == bytes((3, 10, 0, 777 & 0xFF, 777 >> 8))
    bench.servo.write(0, b"\x09\x09\x09\x09\x09\x02")
    assert bench.servo.read(0, 6) == bytes((3, 10, 0, 777 & 0xFF, 777 >> 8, 2))


def test_reading_where_nothing_is(bench: Bench) -> None:
    assert bench.servo.read(90, 20) == bytes(20)
    assert bench.servo.read(255, 2) == bytes(2)
    assert bench.servo.read(40, 0) == b""
    bench.servo.write(90, bytes(range(100)))
    assert bench.servo.read(90, 20) == bytes(20)


@given(st.integers(0, 255), st.binary(max_size=60))
def test_any_write_leaves_a_servo_that_works(address: int, data: bytes) -> None:
    bench = Bench()
    bench.servo.write(address, data)
    bench.run(0.01)
    memory = bench.servo.memory
    for register in STS3215:
        if register.highest is not None and register is not reg.TORQUE_ENABLE:
            assert memory.stored(register) <= register.highest, register.name
    assert 0 <= bench.servo.id <= 253
    assert bench.servo.baud in reg.BAUDS.values()
    assert len(bench.servo.read(0, 255)) == 255


@given(st.integers(0, 95), st.binary(min_size=1, max_size=12))
def test_a_block_is_the_same_as_its_registers_one_by_one(address: int, data: bytes) -> None:
    together, apart = Bench(), Bench()
    together.servo.write(address, data)
    for register in STS3215:
        begin, end = (
            max(register.address, address),
            min(register.address + register.size, address + len(data)),
        )
        if begin < end:
            apart.servo.write(begin, data[begin - address : end - address])
    assert together.servo.read(0, 96) == apart.servo.read(0, 96)


def test_positions_are_the_encoder_less_the_offset(bench: Bench) -> None:
    bench.write(reg.HOMING_OFFSET, 147)
    assert bench.read(reg.PRESENT_POSITION) == 1900
    bench.write(reg.HOMING_OFFSET, -147)
    assert bench.servo.read(31, 2) == bytes((147, 0x08))
    assert bench.read(reg.PRESENT_POSITION) == 2194


def test_one_turn_has_a_seam_where_the_offset_puts_it() -> None:
    bench = Bench(position=4090.0, homing_offset=2043)
    assert bench.read(reg.PRESENT_POSITION) == 2047
    bench.servo.shaft.position = 4096.0 + 100.0
    assert bench.read(reg.PRESENT_POSITION) == 2153
    bench.servo.shaft.position = 2000.0
    assert bench.read(reg.PRESENT_POSITION) == 4053


def test_without_limits_turns_are_counted() -> None:
    bench = Bench(position=-300.0, min_angle=0, max_angle=0)
    assert bench.read(reg.PRESENT_POSITION) == -300
    assert bench.servo.read(56, 2) == bytes((300 & 0xFF, 0x80 | 300 >> 8))
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.write(reg.GOAL_POSITION, 5000)
    bench.run(3.0)
    assert bench.read(reg.PRESENT_POSITION) == 5000


@pytest.mark.parametrize("position", [17.0, 2048.0, 4095.0, -900.0, 9000.0])
def test_128_makes_here_the_centre(position: float) -> None:
    bench = Bench(position)
    bench.write(reg.TORQUE_ENABLE, 128)
    assert bench.read(reg.PRESENT_POSITION) == 2048
    assert bench.read(reg.TORQUE_ENABLE) == 0
    bench.servo.lose_power()
    assert bench.read(reg.PRESENT_POSITION) == 2048


def test_turning_torque_on_drives_to_the_goal_register(bench: Bench) -> None:
    bench.run(1.0, hand=2500.0)
    assert bench.read(reg.PRESENT_POSITION) == pytest.approx(2500, abs=2)
    assert bench.read(reg.GOAL_POSITION) == 2047
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.run(1.0)
    assert bench.read(reg.PRESENT_POSITION) == 2047


def test_a_goal_that_is_the_position_moves_nothing(bench: Bench) -> None:
    bench.run(0.5, hand=2500.0)
    bench.write(reg.GOAL_POSITION, bench.read(reg.PRESENT_POSITION))
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.positions.clear()
    bench.run(0.5)
    assert max(bench.positions) - min(bench.positions) < 2.0


def test_goals_stop_at_the_angle_limits() -> None:
    bench = Bench(min_angle=1000, max_angle=3000)
    bench.write(reg.TORQUE_ENABLE, 1)
    for goal, there in ((3500, 3000), (100, 1000), (-5, 1000), (2000, 2000)):
        bench.write(reg.GOAL_POSITION, goal)
        bench.run(2.0)
        assert bench.read(reg.GOAL_POSITION) == goal
        assert bench.read(reg.PRESENT_POSITION) == there


def test_the_profile_keeps_speed_and_acceleration(bench: Bench) -> None:
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.write(reg.GOAL_SPEED, 500)
    bench.write(reg.ACCELERATION, 10)
    bench.write(reg.GOAL_POSITION, 3047)
    set_points = []
    for _ in range(1600):
        bench.run(STEP_S)
        set_points.append(bench.servo.drive.set_point)
    speeds = [(b - a) / STEP_S for a, b in pairwise(set_points)]
    changes = [abs(b - a) / STEP_S for a, b in pairwise(speeds)]
    assert max(speeds) == pytest.approx(500.0, abs=1.0)
    assert min(speeds) > -1.0
    # Trapezoid of 1000 ticks at 500 ticks/s and 1000 ticks/s^2: 2.5 s.
    arrived = next(number for number, point in enumerate(set_points) if point > 3046.0) * STEP_S
    assert arrived == pytest.approx(2.5, abs=0.1)
    # The last step to the goal, half a tick at most, is not part of the profile.
    assert max(changes[: round(2.3 / STEP_S)]) <= 1000.0 * 1.001
    assert bench.read(reg.PRESENT_POSITION) == 3047


def test_it_says_that_it_moves(bench: Bench) -> None:
    bench.write(reg.TORQUE_ENABLE, 1)
    assert bench.read(reg.MOVING) == 0
    bench.write(reg.GOAL_POSITION, 3000)
    bench.run(0.1)
    assert bench.read(reg.MOVING) == 1
    assert bench.read(reg.PRESENT_SPEED) > 500
    assert bench.read(reg.PRESENT_LOAD) != 0
    assert bench.read(reg.PRESENT_CURRENT) != 0
    bench.run(2.0)
    assert bench.read(reg.MOVING) == 0
    assert bench.read(reg.PRESENT_SPEED) == 0
    assert bench.read(reg.PRESENT_LOAD) == 0
    bench.write(reg.GOAL_POSITION, 1000)
    bench.run(0.3)
    assert bench.read(reg.PRESENT_SPEED) < -500


def test_speed_units_by_the_phase_register(bench: Bench) -> None:
    bench.write(reg.PHASE, bench.read(reg.PHASE) | 4)
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.write(reg.GOAL_SPEED, 10)
    bench.write(reg.GOAL_POSITION, 4000)
    bench.run(1.0)
    assert bench.read(reg.PRESENT_SPEED) == 10
    assert bench.servo.shaft.speed == pytest.approx(500.0, rel=0.02)


@pytest.mark.parametrize(("mode", "register", "value"), [(1, reg.GOAL_SPEED, -800), (2, reg.GOAL_TIME, -235)])
def test_wheel_modes(mode: int, register: Register, value: int) -> None:
    bench = Bench(mode=mode)
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.write(register, value)
    bench.run(3.0)
    assert bench.servo.shaft.speed == pytest.approx(-800.0, rel=0.02)
    bench.write(register, 0)
    bench.run(1.0)
    assert bench.servo.shaft.speed == pytest.approx(0.0, abs=1.0)


def test_step_mode() -> None:
    bench = Bench(position=2000.0, mode=3)
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.run(0.5)
    assert bench.servo.shaft.position == 2000.0
    bench.write(reg.GOAL_POSITION, 100)
    bench.run(1.0)
    bench.write(reg.GOAL_POSITION, -300)
    bench.run(1.0)
    assert bench.read(reg.PRESENT_POSITION) == 1800


def test_free_and_damped(bench: Bench) -> None:
    ways = {}
    for torque in (0, 2):
        bench = Bench()
        bench.write(reg.TORQUE_ENABLE, torque)
        assert bench.servo.drive.torque is (Torque.DAMPED if torque else Torque.FREE)
        bench.servo.shaft.speed = 1000.0
        bench.run(2.0)
        ways[torque] = bench.servo.shaft.position - 2047.0
    assert 0.0 < ways[2] < ways[0] / 3


def test_torque_limits() -> None:
    slow, fast = Bench(), Bench()
    for bench, limit in ((slow, 100), (fast, 1000)):
        bench.write(reg.TORQUE_LIMIT, limit)
        bench.write(reg.TORQUE_ENABLE, 1)
        bench.write(reg.GOAL_POSITION, 3500)
        bench.run(0.1)
        assert max(abs(bench.read(reg.PRESENT_LOAD)), 1) <= limit
    assert slow.servo.shaft.position < fast.servo.shaft.position
    held = Bench(max_torque=500)
    assert held.read(reg.TORQUE_LIMIT) == 500
    held.write(reg.TORQUE_LIMIT, 1000)
    held.write(reg.TORQUE_ENABLE, 1)
    assert held.servo.drive.limit == 0.5


def stuck(bench: Bench, load: float, seconds: float) -> None:
    """Let a following servo push against something with a share of its torque."""
    for _ in range(round(seconds / STEP_S)):
        bench.servo.shaft.load = load
        bench.servo.step(STEP_S)


def test_overload_lasts_until_torque_is_turned_on_anew() -> None:
    bench = Bench(overload_torque=25, protection_time=100, protective_torque=10)
    bench.write(reg.TORQUE_ENABLE, 1)
    stuck(bench, 0.3, 0.9)
    assert bench.servo.error == 0
    stuck(bench, 0.2, 0.1)
    stuck(bench, -0.3, 0.9)
    assert bench.servo.error == 0
    stuck(bench, -0.3, 0.5)
    assert bench.servo.error == reg.OVERLOAD_ERROR
    assert bench.read(reg.STATUS) == reg.OVERLOAD_ERROR
    assert bench.servo.drive.limit == 0.1
    stuck(bench, 0.0, 5.0)
    bench.write(reg.TORQUE_ENABLE, 0)
    assert bench.servo.error == reg.OVERLOAD_ERROR
    bench.write(reg.TORQUE_ENABLE, 1)
    assert bench.servo.error == 0
    assert bench.servo.drive.limit == 1.0


def test_overload_is_gone_with_the_power() -> None:
    bench = Bench()
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.servo.faults.overload = True
    bench.run(STEP_S)
    assert bench.servo.error == reg.OVERLOAD_ERROR
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.run(STEP_S)
    assert bench.servo.error == reg.OVERLOAD_ERROR
    bench.servo.faults.overload = False
    bench.servo.lose_power()
    bench.run(STEP_S)
    assert bench.servo.error == 0
    assert bench.servo.drive.torque is Torque.FREE


def test_too_much_current() -> None:
    bench = Bench(protection_current=100, over_current_time=50)
    bench.write(reg.TORQUE_ENABLE, 1)
    stuck(bench, 0.3, 1.0)
    assert bench.servo.error == reg.CURRENT_ERROR
    assert bench.servo.drive.limit == 0.2


def test_what_is_not_chosen_unloads_nothing() -> None:
    bench = Bench(unloading=0, overload_torque=25, protection_time=10)
    bench.write(reg.TORQUE_ENABLE, 1)
    stuck(bench, 0.5, 0.5)
    assert bench.servo.error == reg.OVERLOAD_ERROR
    assert bench.servo.drive.limit == 1.0


def test_too_hot() -> None:
    bench = Bench(max_temperature=60)
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.servo.faults.heat_to_c = 60.0
    bench.run(3.0)
    assert bench.read(reg.PRESENT_TEMPERATURE) == 60
    assert bench.servo.error == 0
    bench.servo.faults.heat_to_c = 75.0
    bench.run(1.0)
    assert bench.read(reg.PRESENT_TEMPERATURE) == 75
    assert bench.servo.error == reg.TEMPERATURE_ERROR
    assert bench.read(reg.TORQUE_ENABLE) == 0
    assert bench.servo.drive.torque is Torque.FREE
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.run(0.2)
    assert bench.read(reg.TORQUE_ENABLE) == 0
    bench.servo.faults.heat_to_c = None
    bench.run(1.0)
    assert bench.servo.error == 0
    bench.run(1.0)
    assert bench.read(reg.PRESENT_TEMPERATURE) <= 28
    bench.write(reg.TORQUE_ENABLE, 1)
    bench.run(0.5)
    assert bench.servo.drive.torque is Torque.FOLLOWING


def test_work_warms_and_rest_cools(bench: Bench) -> None:
    cold = bench.read(reg.PRESENT_TEMPERATURE)
    bench.write(reg.OVERLOAD_TORQUE, 100)
    bench.write(reg.TORQUE_ENABLE, 1)
    stuck(bench, 0.9, 30.0)
    warm = bench.read(reg.PRESENT_TEMPERATURE)
    assert warm > cold
    stuck(bench, 0.0, 300.0)
    assert bench.read(reg.PRESENT_TEMPERATURE) < warm


def test_voltage(bench: Bench) -> None:
    assert bench.read(reg.PRESENT_VOLTAGE) == 74
    bench.write(reg.MAX_VOLTAGE, 70)
    bench.run(0.2)
    assert bench.servo.error == reg.VOLTAGE_ERROR


def test_a_write_waits_for_its_action(bench: Bench) -> None:
    bench.servo.hold_write(42, bytes((0, 8)))
    assert bench.read(reg.GOAL_POSITION) == 2047
    assert bench.read(reg.WRITE_PENDING) == 1
    bench.servo.release_write()
    assert bench.read(reg.GOAL_POSITION) == 2048
    assert bench.read(reg.WRITE_PENDING) == 0
    bench.servo.release_write()
    bench.servo.hold_write(42, bytes((1, 8)))
    bench.servo.lose_power()
    bench.servo.release_write()
    assert bench.read(reg.GOAL_POSITION) == 2047


def test_memory_keeps_what_it_is_told_to() -> None:
    memory = Memory()
    memory.put_value(reg.HOMING_OFFSET, -5)
    memory.lose_power()
    assert memory[reg.HOMING_OFFSET] == 0
    memory.put_value(reg.HOMING_OFFSET, -5)
    memory.put_value(reg.P_GAIN, 1)
    memory.keep(reg.HOMING_OFFSET)
    memory.lose_power()
    assert memory[reg.HOMING_OFFSET] == -5
    assert memory[reg.P_GAIN] == 32


_EEPROM = [r for r in STS3215 if r.eeprom and r.writable and r is not reg.MODE]
_RAM = [r for r in STS3215 if not r.eeprom and r.writable and r not in (reg.TORQUE_ENABLE, reg.LOCK)]


class LockAndTorque(RuleBasedStateMachine):
    """What must be in the registers after any sequence of writes, locks, torque commands and power losses."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.now = {r.name: self.bench.servo.memory.stored(r) for r in STS3215 if r.writable}
        self.kept = dict(self.now)
        self.lock = 1
        self.torque = 0
        self.refuses = False

    @rule(register=st.sampled_from(_EEPROM), data=st.data())
    def write_eeprom(self, register: Register, data: st.DataObject) -> None:
        stored = self._write(register, data)
        if stored is None or self.refuses:
            return
        self.now[register.name] = stored
        if self.lock == 0:
            self.kept[register.name] = stored

    @rule(register=st.sampled_from(_RAM), data=st.data())
    def write_ram(self, register: Register, data: st.DataObject) -> None:
        stored = self._write(register, data)
        if stored is not None:
            self.now[register.name] = stored

    @rule(lock=st.integers(0, 1))
    def set_lock(self, lock: int) -> None:
        self.bench.write(reg.LOCK, lock)
        self.lock = self.now["lock"] = lock

    @rule(torque=st.sampled_from([0, 1, 2]))
    def set_torque(self, torque: int) -> None:
        self.bench.write(reg.TORQUE_ENABLE, torque)
        self.torque = self.now["torque_enable"] = torque

    @rule()
    def centre(self) -> None:
        self.bench.write(reg.TORQUE_ENABLE, 128)
        if not self.refuses:
            offset = (round(self.bench.servo.shaft.position) - 2048 + 2048) % 4096 - 2048
            self.now["homing_offset"] = self.kept["homing_offset"] = reg.HOMING_OFFSET.encode(offset)

    @rule(refuses=st.booleans())
    def lock_by_fault(self, refuses: bool) -> None:
        self.bench.servo.faults.eeprom_locked = self.refuses = refuses

    @precondition(lambda self: self.torque == 0)
    @rule(by=st.integers(-500, 500))
    def carry(self, by: int) -> None:
        self.bench.servo.shaft.position += by

    @rule()
    def lose_power(self) -> None:
        self.bench.servo.lose_power()
        ram = {r.name: r.factory for r in _RAM}
        self.now = {**self.kept, **ram, "torque_enable": 0, "lock": 1}
        limit = min(self.now["max_torque"], 1000)
        self.now["torque_limit"] = limit
        self.now["goal_position"] = reg.GOAL_POSITION.encode(self.bench.servo.present_position())
        self.lock, self.torque = 1, 0

    @invariant()
    def registers_are_as_they_must_be(self) -> None:
        memory = self.bench.servo.memory
        assert {
            name: stored for name, stored in self.now.items() if stored != self._stored(memory, name)
        } == {}

    @invariant()
    def the_motor_does_what_torque_enable_says(self) -> None:
        expected = {0: Torque.FREE, 1: Torque.FOLLOWING, 2: Torque.DAMPED}[self.torque]
        assert self.bench.servo.drive.torque is expected

    @invariant()
    def the_position_is_the_encoder_less_the_offset(self) -> None:
        servo = self.bench.servo
        offset = reg.HOMING_OFFSET.decode(self.now["homing_offset"])
        difference = servo.present_position() - (round(servo.shaft.position) - offset)
        turns_count = self.now["min_angle"] == self.now["max_angle"] == 0
        assert difference == 0 if turns_count else difference % 4096 == 0
        assert turns_count or 0 <= servo.present_position() < 4096

    @staticmethod
    def _stored(memory: Memory, name: str) -> int:
        return memory.stored(next(register for register in STS3215 if register.name == name))

    def _write(self, register: Register, data: st.DataObject) -> int | None:
        stored: int = data.draw(st.integers(0, (1 << 8 * register.size) - 1))
        self.bench.servo.write(register.address, stored.to_bytes(register.size, "little"))
        taken = register.highest is None or stored <= register.highest
        return stored if taken else None


TestLockAndTorque = LockAndTorque.TestCase
