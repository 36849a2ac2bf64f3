"""What goes wrong with an arm while a loop runs on it: what the port says, where the driver ends, how it recovers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from molmoact2_drivers import LifeCycle, StopPolicy
from molmoact2_drivers.feetech import SoFollower, Torque
from molmoact2_edge.errors import RobotError

from .conftest import EmulatedArm, eventually

_PERIOD_S = 0.01


class Ticks:
    """A thread that does what the loop's does: reads the port, writes the same targets, again and again."""

    def __init__(self, arm: SoFollower) -> None:
        self._port = arm.port()
        self._targets = arm.read_state().positions
        self.reads: dict[str, int] = {"ok": 0, "no_data": 0, "failed": 0}
        self.writes: dict[str, int] = {"ok": 0, "failed": 0}
        self.positions = self._targets
        self.time_ns = 0
        self.slowest_s = 0.0
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._running = False
        self._thread.join()

    def age_s(self) -> float:
        """Of the pose that the loop knows."""
        return (time.monotonic_ns() - self.time_ns) * 1e-9

    def _run(self) -> None:
        while self._running:
            begin = time.monotonic()
            status, positions, time_ns = self._port.read()
            self.reads[status] += 1
            if status == "ok":
                self.positions, self.time_ns = positions, time_ns
            self.writes[self._port.write(self._targets)] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
            time.sleep(_PERIOD_S)


@contextmanager
def active(emulated_arm: EmulatedArm) -> Iterator[tuple[SoFollower, Ticks]]:
    with emulated_arm.follower() as arm:
        arm.connect()
        arm.configure()
        arm.activate()
        ticks = Ticks(arm)
        try:
            yield arm, ticks
        finally:
            ticks.end()


def test_one_packet_in_a_hundred_garbled_is_asked_for_again(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, ticks):
        emulated_arm.fault("corrupt probability=0.05")
        assert eventually(lambda: arm.statistics()["checksum_errors"] >= 5 and ticks.reads["ok"] >= 200)
        assert eventually(lambda: ticks.age_s() < 0.1)
        statistics = arm.statistics()
        assert statistics["retries"] > 0
        assert arm.fault is None
        assert arm.life_cycle is LifeCycle.ACTIVE
        for counts in statistics["servos"].values():
            assert counts["answers"] > counts["misses"]
        # Beside the loop, too, everything is tried again.
        assert arm.bus.read(3, "torque_enable") == Torque.ON


def test_dropped_delayed_and_repeated_packets_end_no_run(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, ticks):
        for fault in (
            "drop probability=0.03",
            "delay probability=0.03 seconds=0.004",
            "duplicate probability=0.03",
        ):
            emulated_arm.fault(fault)
        assert eventually(lambda: ticks.reads["ok"] >= 300)
        assert arm.fault is None
        for fault in ("drop", "delay", "duplicate"):
            emulated_arm.fault(f"clear {fault}")
        assert eventually(lambda: ticks.age_s() < 0.05)
        assert arm.life_cycle is LifeCycle.ACTIVE


def test_an_absent_servo_makes_the_pose_old_and_comes_back(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, ticks):
        assert eventually(lambda: ticks.reads["ok"] > 5)
        emulated_arm.fault("absent servo=3")
        assert eventually(lambda: ticks.age_s() > 0.3)
        misses = arm.statistics()["servos"]
        assert misses["elbow_flex"]["misses"] > misses["shoulder_pan"]["misses"]
        assert arm.life_cycle is LifeCycle.ACTIVE
        with pytest.raises(RobotError, match="elbow_flex not answering"):
            arm.read_state()
        emulated_arm.fault("clear absent")
        assert eventually(lambda: ticks.age_s() < 0.05)
        assert arm.fault is None
        written = ticks.writes["ok"]
        assert eventually(lambda: ticks.writes["ok"] > written + 5)


def test_a_pulled_cable_fails_at_once_and_the_arm_goes_on_when_it_is_back(
    emulated: Callable[..., EmulatedArm],
) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, ticks):
        assert eventually(lambda: ticks.reads["ok"] > 5)
        emulated_arm.fault("unplug duration=0.7")
        assert eventually(lambda: ticks.reads["failed"] > 5)
        assert arm.life_cycle is LifeCycle.ACTIVE
        assert eventually(lambda: arm.statistics()["reconnections"] == 1)
        assert eventually(lambda: ticks.age_s() < 0.05)
        assert arm.fault is None
        written = ticks.writes["ok"]
        assert eventually(lambda: ticks.writes["ok"] > written + 5)
        assert arm.bus.read(1, "torque_enable") == Torque.ON


def test_a_cable_that_stays_out_is_an_error_and_recover_takes_it_up(
    emulated: Callable[..., EmulatedArm],
) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, ticks):
        emulated_arm.fault("unplug")
        assert eventually(lambda: arm.life_cycle is LifeCycle.ERROR)
        assert arm.fault is not None
        assert "was unplugged and did not come back within 5 s; plug it in and recover" in arm.fault
        with pytest.raises(RobotError, match=r"is error .*was unplugged"):
            arm.read_state()
        with pytest.raises(RobotError, match="cannot open"):
            arm.recover()
        assert arm.life_cycle is LifeCycle.ERROR
        arm.stop(StopPolicy.TORQUE_OFF)
        emulated_arm.fault("clear unplug")
        assert eventually(lambda: _recovers(arm))
        assert arm.life_cycle is LifeCycle.CONFIGURED
        assert arm.fault is None
        arm.activate()
        written = ticks.writes["ok"]
        assert eventually(lambda: ticks.writes["ok"] > written + 5)


def test_an_arm_that_lost_its_power_with_its_cable_is_not_driven_back(
    emulated: Callable[..., EmulatedArm],
) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, ticks):
        emulated_arm.fault("unplug duration=1.0")
        emulated_arm.fault("power_loss duration=0.5")
        assert eventually(lambda: arm.life_cycle is LifeCycle.ERROR)
        assert arm.fault is not None
        assert "was without power and has let go" in arm.fault
        written = ticks.writes["ok"]
        failed = ticks.writes["failed"]
        assert eventually(lambda: ticks.writes["failed"] > failed + 20)
        assert ticks.writes["ok"] == written
        assert set(arm.bus.read_many(range(1, 7), "torque_enable").values()) == {Torque.OFF}
        arm.recover()
        arm.activate()
        assert arm.life_cycle is LifeCycle.ACTIVE


def test_servos_that_restart_while_the_cable_is_in_are_noticed(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, ticks):
        assert eventually(lambda: ticks.reads["ok"] > 5)
        emulated_arm.fault("power_loss")
        assert eventually(lambda: ticks.age_s() > 0.2)
        emulated_arm.fault("clear power_loss")
        assert eventually(lambda: arm.life_cycle is LifeCycle.ERROR)
        assert arm.fault is not None
        assert "was without power" in arm.fault
        assert set(arm.bus.read_many(range(1, 7), "torque_enable").values()) == {Torque.OFF}


def test_an_overloaded_servo_stops_the_commands_and_is_named(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, ticks):
        emulated_arm.fault("overload servo=2 duration=1.0")
        assert eventually(lambda: arm.life_cycle is LifeCycle.ERROR)
        assert arm.fault is not None
        assert "shoulder_lift (servo 2) reports overload and has let go or will" in arm.fault
        assert arm.faults() == {"shoulder_lift": ("overload",)}
        failed = ticks.writes["failed"]
        assert eventually(lambda: ticks.writes["failed"] > failed + 5)
        # The others hold, and the overloaded one is not made to try again.
        arm.stop(StopPolicy.HOLD)
        assert arm.life_cycle is LifeCycle.ERROR
        with pytest.raises(RobotError, match="is error"):
            arm.activate()
        assert eventually(lambda: _recovers(arm))
        assert arm.faults() == {}
        arm.activate()
        assert arm.life_cycle is LifeCycle.ACTIVE


def test_a_servo_that_is_too_hot_is_an_error_until_it_has_cooled(
    emulated: Callable[..., EmulatedArm],
) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, _):
        emulated_arm.fault("overtemperature servo=5 celsius=85")
        assert eventually(lambda: arm.life_cycle is LifeCycle.ERROR)
        assert arm.fault is not None
        assert "wrist_roll (servo 5) reports temperature" in arm.fault
        with pytest.raises(RobotError, match=r"wrist_roll \(servo 5\) still reports temperature; wait"):
            arm.recover()
        assert arm.life_cycle is LifeCycle.ERROR


def test_heat_is_measured_before_the_servo_gives_up(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, _):
        emulated_arm.fault("overtemperature servo=4 celsius=60")

        def temperature() -> float:
            temperatures = arm.read_state().temperatures
            assert temperatures is not None
            return float(temperatures[3])

        assert eventually(lambda: temperature() > 55.0)
        assert arm.fault is None


def test_reading_beside_the_loop_disturbs_neither(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()
    with active(emulated_arm) as (arm, ticks):
        for _ in range(100):
            state = arm.read_state()
            assert np.isfinite(state.positions).all()
        assert arm.fault is None
        assert ticks.reads["ok"] > 0
        assert eventually(lambda: ticks.age_s() < 0.05)


def test_no_thread_is_left_behind(emulated: Callable[..., EmulatedArm]) -> None:
    emulated_arm = emulated()

    def threads() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("Threads:"))

    before = threads()
    for _ in range(3):
        with emulated_arm.follower() as arm:
            arm.connect()
            arm.configure()
            assert threads() == before + 1
            arm.activate()
    assert threads() == before


def _recovers(arm: SoFollower) -> bool:
    try:
        arm.recover()
    except RobotError:
        return False
    return True
