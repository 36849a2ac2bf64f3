"""The control thread as Python sees it, and the whole way of a chunk in a stepped run."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact2_edge.control import (
    ControlLoop,
    JointLimits,
    MailboxPort,
    Observation,
    Watchdogs,
    monotonic_ns,
)
from molmoact2_edge.errors import InputError, RobotError

PERIOD_NS = 20_000_000
WAIT_S = 20.0


def limits(joints: int = 2) -> JointLimits:
    row = np.ones(joints)
    return JointLimits(-100 * row, 100 * row, 90 * row, 450 * row, 30 * row)


def wait_until(condition, message: str) -> None:  # type: ignore[no-untyped-def]
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up, message
        time.sleep(0.002)


class SteppedArm:
    """A loop in simulated time with a robot that does what it is told, one tick late."""

    def __init__(self, **options: object) -> None:
        self.port = MailboxPort(2)
        self.loop = ControlLoop(self.port, limits(), **options)  # type: ignore[arg-type]
        self.now = 1_000_000_000
        self.pose = np.zeros(2)
        self.begin()

    def begin(self) -> None:
        self.loop.begin_stepped(self.now)

    def tick(self, *, silent: bool = False) -> dict[str, object]:
        self.now += PERIOD_NS
        if not silent:
            self.port.publish_state(self.pose, self.now)
        self.loop.tick(self.now)
        command = self.port.take_command()
        if command is not None:
            self.pose = command[0]
        record = self.loop.last_record()
        assert record is not None
        return dict(record)


def test_the_loop_keeps_ticking_while_another_thread_holds_the_lock_of_the_interpreter() -> None:
    loop = ControlLoop(MailboxPort(2), limits(), rate_hz=200.0)
    loop.start()
    text = "x" * 3_000_000
    try:
        before = loop.ticks
        begin = time.perf_counter()
        # Comparing long strings never lets go of the lock, unlike bytecode, which is interrupted every 5 ms.
        while time.perf_counter() - begin < 1.0:
            text.count("xy")
        held_s = time.perf_counter() - begin
        assert loop.ticks > before
        telemetry = loop.records(before)
        assert len(telemetry.records) > 0
    finally:
        assert loop.stop()
    assert held_s >= 1.0


def test_a_chunk_goes_from_push_to_the_robot() -> None:
    port = MailboxPort(2)
    loop = ControlLoop(
        port, limits(), rate_hz=200.0, chunk_rate_hz=50.0, silence_hold_s=5.0, silence_fault_s=10.0
    )
    assert loop.start() == []
    try:
        port.publish_state([1.0, 2.0], monotonic_ns())
        wait_until(lambda: loop.observation_at(monotonic_ns()) is not None, "no observation")
        observation = loop.observation_at(monotonic_ns())
        assert observation is not None
        assert observation.step == 0
        assert observation.measured.tolist() == [1.0, 2.0]
        loop.push(np.tile([3.0, 2.0], (10, 1)), observation)
        seen: list[np.ndarray] = []

        def arrived() -> bool:
            command = port.take_command()
            if command is not None:
                seen.append(command[0])
                port.publish_state(command[0], monotonic_ns())
            return bool(seen) and abs(seen[-1][0] - 3.0) < 1e-9

        wait_until(arrived, "the target was not reached")
        wait_until(lambda: "chunk_exhausted" in loop.statistics()["reason_ticks"], "the chunk did not end")
    finally:
        assert loop.stop()
    statistics = loop.statistics()
    assert statistics["chunks_taken"] == 1
    assert statistics["executed_steps"] == 40
    assert statistics["period"]["count"] == statistics["ticks"] - 1


def test_runs_follow_each_other_and_statistics_go_on() -> None:
    arm = SteppedArm()
    for _ in range(5):
        arm.tick()
    observation = arm.loop.observation_at(arm.now)
    assert observation is not None
    arm.begin()
    assert arm.loop.observation_at(arm.now) is None
    arm.loop.push(np.ones((5, 2)), observation)
    assert arm.tick()["reason"] == "chunk_of_other_run"
    assert arm.loop.run == 2
    assert arm.loop.ticks == 6


def test_telemetry_is_read_from_where_one_left_off() -> None:
    arm = SteppedArm(telemetry_capacity=8)
    for _ in range(3):
        arm.tick()
    first = arm.loop.records()
    assert [record["tick"] for record in first.records] == [1, 2, 3]
    assert (first.newest, first.lost) == (3, 0)
    for _ in range(12):
        arm.tick()
    second = arm.loop.records(first.newest)
    assert [record["tick"] for record in second.records] == list(range(8, 16))
    assert (second.newest, second.lost) == (15, 4)


def test_starting_twice_and_stepping_unbegun_are_refused() -> None:
    loop = ControlLoop(MailboxPort(2), limits())
    with pytest.raises(RobotError, match="begin_stepped"):
        loop.tick(0)
    loop.start()
    with pytest.raises(RobotError, match="already running"):
        loop.start()
    with pytest.raises(RobotError, match="already running"):
        loop.tick(0)
    assert loop.running
    wait_until(lambda: loop.ticks > 0, "the loop did not begin")
    loop.request_stop(by_signal=True)
    wait_until(lambda: not loop.running, "the loop did not end")
    assert loop.statistics()["reason_ticks"]["state_missing"] > 0


def test_a_refused_request_is_a_warning_with_a_name() -> None:
    loop = ControlLoop(MailboxPort(2), limits(), cpus=[100_000])
    (warning,) = loop.start()
    loop.stop()
    assert warning.name == "affinity_refused"
    assert "CPUs" in warning.text


def test_threads_may_look_while_the_loop_runs() -> None:
    port = MailboxPort(2)
    loop = ControlLoop(port, limits(), rate_hz=1000.0, silence_hold_s=30.0, silence_fault_s=60.0)
    loop.start()
    port.publish_state([0.0, 0.0], monotonic_ns())
    wait_until(lambda: loop.observation_at(monotonic_ns()) is not None, "no observation")
    failures: list[str] = []

    def look() -> None:
        for _ in range(300):
            loop.statistics()
            telemetry = loop.records(max(0, loop.ticks - 20))
            ticks = [record["tick"] for record in telemetry.records]
            if ticks != sorted(set(ticks)):
                failures.append(f"ticks out of order: {ticks}")

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loop.stop()
    assert failures == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rate_hz": 5.0}, "rate_hz"),
        ({"rate_hz": 2000.0}, "rate_hz"),
        ({"chunk_rate_hz": 60.0}, "chunk_rate_hz"),
        ({"mode": "fast"}, "mode"),
        ({"resampling": "square"}, "resampling"),
        ({"silence_hold_s": 0.0}, "silence_hold_s"),
        ({"rate_hz": 10.0, "silence_hold_s": 0.15}, "silence_hold_s must be at least two periods"),
        ({"silence_hold_s": math.inf, "silence_fault_s": math.inf}, "silence_hold_s"),
        ({"watchdogs": Watchdogs(chunk_age_max_s=math.inf)}, "chunk_age_max_s"),
        ({"watchdogs": Watchdogs(chunk_age_max_s=1e-12)}, "chunk_age_max_s"),
        ({"watchdogs": Watchdogs(camera_age_max_s=math.nan)}, "camera_age_max_s"),
        ({"start_speed": 0.0}, "start_speed"),
        ({"start_distance_max": [1.0]}, "start_distance_max"),
        ({"fifo_priority": 100}, "fifo_priority"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        ControlLoop(MailboxPort(2), limits(), **options)  # type: ignore[arg-type]


def test_a_port_with_other_joints_is_refused() -> None:
    with pytest.raises(InputError, match="the port has 3 joints, the limits have 2"):
        ControlLoop(MailboxPort(3), limits())
    with pytest.raises(ValueError, match="joint_count"):
        MailboxPort(0)
    with pytest.raises(ValueError, match=r"positions must have shape \(2,\)"):
        MailboxPort(2).publish_state([1.0], 0)


offsets = st.one_of(
    st.floats(-5.0, 5.0), st.floats(-5.0, 5.0), st.floats(allow_nan=True, allow_infinity=True)
)
happenings = st.lists(
    st.tuples(
        st.sampled_from(["chunk", "chunk", "chunk", "chunk", "silence", "restart"]),
        st.integers(0, 12),  # ticks since the one before
        st.integers(0, 15),  # delay of the chunk, or length of the silence, in ticks
        st.integers(0, 20),  # rows
        st.tuples(offsets, offsets),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(
    happenings=happenings,
    mode=st.sampled_from(["sync", "async", "blend"]),
    chunk_rate_hz=st.sampled_from([10.0, 30.0, 50.0]),
)
def test_no_sequence_of_chunks_delays_and_faults_breaks_a_limit_or_loses_a_step(
    happenings: list[tuple[str, int, int, int, tuple[float, float]]], mode: str, chunk_rate_hz: float
) -> None:
    arm = SteppedArm(mode=mode, chunk_rate_hz=chunk_rate_hz)
    bounds = limits()
    last_command: np.ndarray | None = None
    velocity, step, silent = np.zeros(2), 0, 0
    on_the_way: list[tuple[int, Observation, np.ndarray]] = []
    due = np.cumsum([gap for _, gap, *_ in happenings]) + 1
    for tick in range(int(due[-1]) + 60):
        for when, (kind, _, ticks, rows, offset) in zip(due, happenings, strict=True):
            if when != tick:
                continue
            if kind == "restart":
                arm.begin()
                last_command, velocity, step = None, np.zeros(2), 0
            elif kind == "silence":
                silent = ticks
            else:
                observation = arm.loop.observation_at(arm.now)
                if observation is not None:
                    with np.errstate(invalid="ignore"):  # infinity * 0 is one more way to NaN
                        chunk = arm.pose + np.array(offset) * np.linspace(0.0, 1.0, rows)[:, None]
                    on_the_way.append((tick + ticks, observation, chunk))
        for arrival, observation, chunk in on_the_way:
            if arrival == tick:
                arm.loop.push(chunk, observation)
        record = arm.tick(silent=silent > 0)
        silent -= 1
        command = np.asarray(record["command"])
        assert np.isfinite(command).all()
        if record["reason"] == "state_missing":
            continue
        assert (np.abs(command) <= 100.0).all()
        if last_command is not None:
            now_velocity = (command - last_command) * 50.0
            assert (np.abs(now_velocity) <= bounds.velocity_max).all()
            assert (np.abs(now_velocity - velocity) * 50.0 <= bounds.acceleration_max).all()
            velocity = now_velocity
        last_command = command
        # A step is executed once, when its target was followed, and never without a reason to hold.
        assert record["step"] == step + bool(record["followed"])
        step = int(str(record["step"]))
        if record["state"] in ("holding", "fault"):
            assert record["reason"] != "none"
            assert not record["followed"]
