"""Every watchdog and every way to stop, end to end in the simulator, by causing what it is there for.

Simulated time where nothing but the loop's own clock matters; real time, with a bound, where a signal, a terminal or
the interpreter's lock does.
"""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import Predicted, configuration
from molmoact2_drivers import StopPolicy
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop, JointLimits, LoopbackPort, Reason, StopMonitor
from molmoact2_edge.runtime import RunSettings
from molmoact2_edge.runtime.inference_time import InferenceTime
from molmoact2_edge.runtime.interruption import Interruption, interruptible
from molmoact2_edge.runtime.simulated_runner import SimulatedRunner
from molmoact2_edge.runtime.status import StatusDisplay
from molmoact2_edge.runtime.stepped_table import SteppedTable
from molmoact2_edge.sim import World
from molmoact2_edge.sim.robot import SimRobot
from molmoact2_edge.sim.stepped import SteppedCamera, SteppedRobot
from molmoact2_edge.telemetry.session import TelemetrySettings

PERIOD_NS = 20_000_000
WAIT_S = 20.0


class FaultyRobot(SteppedRobot):
    """The simulated arm; its wire can fall silent, its motors can get hot, and it remembers how it was stopped."""

    silent = False
    temperatures: np.ndarray | None = None
    currents: np.ndarray | None = None

    def stop(self, policy: StopPolicy) -> None:
        self.stops = [*getattr(self, "stops", []), policy]
        super().stop(policy)

    def _publish(self) -> None:
        if self.silent or self._port is None:
            return
        self._state = self._measure()
        self._port.publish_state(self._state.positions, self._state.time_ns, self.temperatures, self.currents)


class FaultyCamera(SteppedCamera):
    """A camera that can go on giving its last frame."""

    stalled = False

    def expose(self) -> None:
        if not self.stalled:
            super().expose()


class FaultyTable(SteppedTable):
    def _make_robot(self) -> SimRobot:
        return FaultyRobot(World(0), self.clock)

    def _make_camera(self, name: str, image_size: tuple[int, int], rate_hz: float) -> Any:
        camera = FaultyCamera(self.robot, self.clock, name, image_size, rate_hz)
        self.stepped_cameras.append(camera)
        return camera


class Swaying:
    """Moves the first joint slowly; at its sixth call it causes something, and may fail from then on."""

    def __init__(self, cause: Callable[[], None], fails: bool = False) -> None:
        self.cause, self.fails, self.calls = cause, fails, 0

    def predict(self, images: Any, task: str, state: Any, *_: Any, **__: Any) -> Predicted:
        self.calls += 1
        if self.calls == 6:
            self.cause()
        if self.calls >= 6 and self.fails:
            raise ArithmeticError("the device fell off")
        rows = np.tile(np.asarray(state, np.float32), (10, 1))
        rows[:, 0] += np.linspace(0.5, 5.0, 10, dtype=np.float32)
        return Predicted(rows)


class Stage:
    """One episode on a table where things can go wrong."""

    def __init__(self, tmp_path: Path, **changes: Any) -> None:
        config = configuration()
        sections = {name: replace(getattr(config, name), **values) for name, values in changes.items()}
        self.config: RobotConfig = replace(config, **sections)
        self.table = FaultyTable(self.config)
        self.table.open()
        self.tmp_path = tmp_path

    def run(
        self, cause: Callable[[], None], *, fails: bool = False, interruption: Interruption | None = None
    ) -> SimulatedRunner:
        self.runner = SimulatedRunner(
            self.table,
            Swaying(cause, fails),
            self.config,
            RunSettings(
                episodes=2, duration_s=6.0, telemetry=TelemetrySettings(blackbox=self.tmp_path / "blackbox")
            ),
            StatusDisplay(io.StringIO()),
            InferenceTime(),
        )
        self.runner.run(interruption or Interruption())
        return self.runner

    @property
    def robot(self) -> FaultyRobot:
        robot = self.table.robot
        assert isinstance(robot, FaultyRobot)
        return robot

    def stopped(self) -> bool:
        """Wait in real time for the stop monitor; from then on simulated time goes on."""
        give_up = time.monotonic() + WAIT_S
        while self.runner.stop_reason is None and time.monotonic() < give_up:
            time.sleep(0.002)
        return self.runner.stop_reason is not None

    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.runner.results[0].gate_events]

    def first(self, reason: Reason) -> dict[str, Any]:
        """Return the first tick with a reason."""
        records = self.runner.loop.records().records
        return dict(next(record for record in records if record["reason"] == reason))


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    opened: list[Stage] = []

    def make(**changes: Any) -> Stage:
        opened.append(Stage(tmp_path, **changes))
        return opened[-1]

    yield make
    for each in opened:
        each.table.close()


def test_a_stalled_camera_holds_within_two_periods_of_its_limit(stage: Any) -> None:
    bench = stage(
        policy={"frame_age_max_s": 5.0}
    )  # the policy goes on with the frozen image: only the loop notices
    camera = None

    def stall() -> None:
        nonlocal camera
        camera = bench.table.stepped_cameras[1]
        camera.stalled = True

    bench.run(stall)
    held = bench.first(Reason.CAMERA_STALE)
    assert held["state"] == "holding"
    late_ns = held["wakeup_ns"] - camera.exposed_ns - bench.config.watchdogs.camera_age_max_s * 1e9
    assert 0 < late_ns <= 2 * PERIOD_NS


@pytest.mark.parametrize("limit_s", [0.4, None])
def test_a_policy_that_gives_no_more_chunks_holds_within_two_periods_of_its_limit(
    stage: Any, limit_s: float | None
) -> None:
    bench = stage(watchdogs={"chunk_age_max_s": limit_s})
    bench.run(lambda: None, fails=True)
    if limit_s is None:
        assert "chunk_exhausted" in bench.reasons()
        return
    held = bench.first(Reason.CHUNK_STALE)
    assert held["state"] == "holding"
    assert 0 < held["wakeup_ns"] - held["observed_ns"] - limit_s * 1e9 <= 2 * PERIOD_NS


def test_a_silent_robot_is_held_and_then_a_fault(stage: Any) -> None:
    bench = stage()

    def fall_silent() -> None:
        bench.robot.silent = True

    bench.run(fall_silent)
    reasons = bench.reasons()
    assert reasons.index("state_stale") < reasons.index("state_lost")
    held = bench.first(Reason.STATE_STALE)
    late_ns = held["wakeup_ns"] - held["measured_ns"] - bench.config.loop.silence_hold_s * 1e9
    assert 0 < late_ns <= 2 * PERIOD_NS
    assert bench.runner.results[0].reason == "fault: state_lost"


@pytest.mark.parametrize(
    ("kind", "level", "reason", "state"),
    [
        ("temperatures", 56.0, Reason.TEMPERATURE_HIGH, "holding"),
        ("temperatures", 66.0, Reason.TEMPERATURE_LIMIT, "fault"),
        ("currents", -1.6, Reason.CURRENT_HIGH, "holding"),
        ("currents", 2.6, Reason.CURRENT_LIMIT, "fault"),
    ],
)
def test_a_motor_above_its_levels_is_held_or_a_fault(
    stage: Any, kind: str, level: float, reason: Reason, state: str
) -> None:
    bench = stage(watchdogs={"temperature": (55.0, 65.0), "current": (1.5, 2.5)})

    def overload() -> None:
        readings = np.full(6, 0.1)
        readings[2] = level
        setattr(bench.robot, kind, readings)

    bench.run(overload)
    assert bench.first(reason)["state"] == state


def test_every_stop_ends_in_the_configured_pose_and_no_episode_follows(stage: Any) -> None:
    for pose in StopPolicy:
        bench = stage(stop={"pose": pose.value})
        bench.run(lambda bench=bench: bench.runner.loop.latch_stop())
        assert bench.runner.results[0].reason == "stopped: a stop was requested"
        assert len(bench.runner.results) == 1
        assert not bench.runner.completed
        last = bench.runner.loop.last_record()
        assert (last["state"], last["reason"]) == ("idle", "stop_requested")
        assert bench.robot.stops[-1] is pose
        bench.table.close()
        assert bench.robot.stops[-1] is pose  # closing does not hold again what was let go


def test_a_fault_ends_in_the_configured_pose_too(stage: Any) -> None:
    bench = stage(stop={"pose": "damp"})

    def fall_silent() -> None:
        bench.robot.silent = True

    bench.run(fall_silent)
    assert bench.robot.stops[-1] is StopPolicy.DAMP
    assert len(bench.runner.results) == 1  # of two: only a person clears a fault
    assert not bench.runner.completed


def test_a_file_that_appears_stops_the_run(stage: Any, tmp_path: Path) -> None:
    path = tmp_path / "stop"
    bench = stage(stop={"file": str(path)})

    def cause() -> None:
        path.touch()
        assert bench.stopped()

    bench.run(cause)
    assert bench.runner.stop_reason == Reason.STOP_FILE
    assert bench.reasons()[-1] == "stop_file"


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_word_on_the_socket_stops_the_run(stage: Any, tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"unix:{tmp_path / 'stop.sock'}" if kind == "unix" else f"tcp:{port}"
    bench = stage(stop={"socket": address})

    def cause() -> None:
        if kind == "unix":
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(tmp_path / "stop.sock"))
        else:
            client = socket.create_connection(("127.0.0.1", port))
        with client:
            client.sendall(b"stop\n")
            assert client.recv(64) == b"stopping\n"
        assert bench.stopped()

    bench.run(cause)
    assert bench.runner.stop_reason == Reason.STOP_SOCKET
    assert bench.reasons()[-1] == "stop_socket"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_run(stage: Any, number: signal.Signals) -> None:
    bench = stage()
    usual = signal.signal(number, signal.default_int_handler)  # whatever this process was started with
    with interruptible() as interruption:

        def cause() -> None:
            os.kill(os.getpid(), number)
            assert bench.stopped()

        bench.run(cause, interruption=interruption)
    signal.signal(number, usual)
    assert bench.runner.stop_reason == Reason.STOP_SIGNAL
    assert bench.runner.results[0].reason == f"ended by {number.name}"
    assert bench.reasons()[-1] == "stop_signal"


LOOP_IN_A_CHILD = """
import sys, time, numpy as np
from molmoact2_edge.control import ControlLoop, JointLimits, LoopbackPort, StopMonitor, Watchdogs
row = np.ones(2)
loop = ControlLoop(LoopbackPort([0.0, 0.0], 0.0), JointLimits(-90 * row, 90 * row, 60 * row, 300 * row, 40 * row),
                   rate_hz=100.0, watchdogs=Watchdogs(overruns_max=2, overrun_window_s=30.0))
"""


@pytest.mark.parametrize("key", [b" ", b"\x1a", b"\x1c", b"\x13"], ids=["space", "^Z", "^\\", "^S"])
def test_a_key_stops_the_loop_and_the_terminal_is_given_back(key: bytes) -> None:
    """In a child with a terminal of its own, as a person has one."""
    code = LOOP_IN_A_CHILD + (
        "import termios\n"
        "before = termios.tcgetattr(0)\n"
        "with StopMonitor(loop, key=0) as monitor:\n"
        "    loop.start()\n"
        "    print('ready', monitor.sources, flush=True)\n"
        "    give_up = time.monotonic() + 20\n"
        "    # The loop is stopped first and the reason told afterwards.\n"
        "    while loop.running or str(monitor.reason) == 'none':\n"
        "        if time.monotonic() > give_up: break\n"
        "        time.sleep(0.005)\n"
        "    print('reason', monitor.reason, loop.running, flush=True)\n"
        "print('restored', termios.tcgetattr(0) == before, flush=True)\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    said, pressed = b"", False
    try:
        give_up = time.monotonic() + 60.0
        while re.search(rb"restored \w+\r", said) is None and time.monotonic() < give_up:
            try:
                said += os.read(terminal, 4096)
            except OSError:  # the child is gone
                break
            if b"ready" in said and not pressed:
                pressed = True
                os.write(terminal, key)
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    assert b"ready ('any key',)" in said, said
    assert b"reason stop_key False" in said, said
    assert b"restored True" in said, said


def test_a_loop_that_is_kept_from_its_deadlines_again_and_again_holds() -> None:
    """The system stops the whole process, as an overloaded or suspended computer does."""
    code = LOOP_IN_A_CHILD + (
        "loop.start()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(loop.statistics()['reason_ticks'], loop.statistics()['overruns'], flush=True)\n"
        "loop.stop()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for _ in range(4):
            time.sleep(0.1)
            child.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            child.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        child.stdin.write("\n")
        child.stdin.flush()
        told = child.stdout.readline()
    assert "'overruns_repeated'" in told, told


def test_a_process_without_descriptors_stops_for_a_client_that_it_cannot_take(tmp_path: Path) -> None:
    """In a child, whose limit is lowered until the socket can take nobody."""
    path = tmp_path / "stop.sock"
    code = LOOP_IN_A_CHILD + (
        "import os, resource\n"
        "usual = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        f"with StopMonitor(loop, socket='unix:{path}') as monitor:\n"
        "    loop.start()\n"
        "    taken = [os.dup(0) for _ in range(32)]\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1, usual[1]))\n"
        "    print('ready', monitor.failure, flush=True)\n"
        "    sys.stdin.readline()\n"
        "    begin = time.monotonic()\n"
        "    while loop.running or monitor._monitor.failed_accepts < 3:\n"
        "        if time.monotonic() > begin + 20: break\n"
        "        time.sleep(0.005)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, usual)\n"
        "    print(monitor.reason, loop.running, monitor.failure, flush=True)\n"
        "    sys.stdin.readline()\n"
        "print(monitor.failure, flush=True)\n"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child,
        socket.socket(socket.AF_UNIX) as client,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready None\n"
        client.connect(str(path))
        child.stdin.write("\n")
        child.stdin.flush()
        told = child.stdout.readline()
        client.settimeout(20.0)
        client.sendall(b"stop\n")  # it was in the queue, and is heard now
        assert client.recv(64) == b"stopping\n"
        child.stdin.write("\n")
        child.stdin.flush()
        last = child.stdout.readline()
    failure = r"a client of the stop socket could not be taken \(Too many open files, \d+ times\), .*a stop\n"
    assert re.fullmatch(f"stop_socket False {failure}", told), told
    assert re.fullmatch(failure, last), last


def test_a_stop_needs_no_python(tmp_path: Path) -> None:
    """Another process touches the file while this one's interpreter lock is held for more than a second."""
    row = np.ones(2)
    loop = ControlLoop(
        LoopbackPort([0.0, 0.0], 0.0),
        JointLimits(-90 * row, 90 * row, 60 * row, 300 * row, 40 * row),
        rate_hz=100.0,
    )
    text = "x" * 3_000_000
    path = tmp_path / "stop"
    with StopMonitor(loop, file=str(path)) as monitor:
        loop.start()
        with subprocess.Popen(["/bin/sh", "-c", f"sleep 0.3; touch '{path}'"]):
            begin = time.perf_counter()
            # Comparing long strings never lets go of the lock, unlike bytecode.
            while time.perf_counter() - begin < 1.5:
                text.count("xy")
            released_ns = time.monotonic_ns()
        assert monitor.reason == Reason.STOP_FILE
        assert monitor.stopped_at_ns < released_ns
        last = loop.last_record()
    assert last is not None
    assert (last["state"], last["reason"]) == ("idle", "stop_file")
    assert last["wakeup_ns"] < released_ns
    assert loop.stop()
