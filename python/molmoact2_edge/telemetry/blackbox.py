"""Watches a loop for faults from a thread of its own, and writes what led to each into a file.

The thread reads the loop's ring; the loop does not know of it. A fault's file is written at once and again, under the
same name, when the moments after it are known.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from molmoact2_edge.build import build_config
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop, GateState, TickRecord
from molmoact2_edge.machine import machine_facts
from molmoact2_edge.telemetry.blackbox_file import BlackBoxContent, write_black_box
from molmoact2_edge.telemetry.gate_events import GateChanges
from molmoact2_edge.telemetry.journal import Journal

SPAN_S = 10.0
FILES_KEPT = 20
_AFTERMATH_S = 1.0
_POLL_S = 0.05
_JOIN_TIMEOUT_S = 10.0
_REQUESTS_KEPT = 16


def ring_capacity(rate_hz: float) -> int:
    """Return how many records a loop's ring needs, so that a black box finds its span and what follows in it."""
    return max(4096, round(rate_hz * (SPAN_S + 2.0 * _AFTERMATH_S)))


@dataclass(frozen=True)
class _Trigger:
    """Why a file is written."""

    reason: str
    tick: int
    time_ns: int
    path: Path
    complete_at_ns: int


class BlackBox:
    """Writes ``blackbox-<time>-<reason>.jsonl`` into a directory at every fault of the loop and on request.

    At most :data:`FILES_KEPT` files stay there, the newest. What goes wrong is counted in :attr:`failures`, and the
    first of it kept in :attr:`failure`; the thread goes on, so that the next fault can have its file.
    """

    def __init__(self, directory: Path, loop: ControlLoop, config: RobotConfig, journal: Journal) -> None:
        self.directory = directory
        self.files: list[Path] = []
        """Written in this run, oldest first."""
        self.failure: str | None = None
        self.failures = 0
        self._loop = loop
        self._config = config
        self._journal = journal
        self._changes = GateChanges()
        self._position = loop.ticks
        self._faulty_run = 0
        self._last: TickRecord | None = None
        self._requests: deque[str] = deque(maxlen=_REQUESTS_KEPT)
        self._unfinished: list[_Trigger] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="black-box", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def request(self, reason: str) -> None:
        """Ask for a file; returns at once. Safe in a signal handler."""
        self._requests.append(reason)

    def stop(self) -> None:
        """Write what is still to be written, and end. Does not raise."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_TIMEOUT_S)
            if self._thread.is_alive():
                self._note_failure(f"still writing into {self.directory} after {_JOIN_TIMEOUT_S:g} s")

    def _run(self) -> None:
        while True:
            ending = self._stopping.wait(_POLL_S)
            with self._noting_failures():
                self._look(ending)
            if ending:
                return

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        """Whatever it is: a thread that ended here would leave every later fault without a file, and say nothing."""
        try:
            yield
        except OSError as error:
            self._note_failure(f"cannot write a black box into {self.directory}: {error}")
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._note_failure(
                f"a black box came to {type(error).__name__}: {error} "
                f"({Path(place.filename).name}:{place.lineno})"
            )

    def _note_failure(self, failure: str) -> None:
        self.failures += 1
        self.failure = self.failure or failure

    def _look(self, ending: bool) -> None:
        telemetry = self._loop.records(self._position)
        self._position = telemetry.newest
        for record in telemetry.records:
            self._last = record
            self._changes.take(record)
            if record["state"] == GateState.FAULT and record["run"] != self._faulty_run:
                self._faulty_run = record["run"]  # a fault latches: one file for each run's
                self._begin(f"fault: {record['reason']}", record)
        while self._requests:
            self._begin(self._requests.popleft(), self._last)
        now_ns = time.monotonic_ns()
        over = ending or not self._loop.running
        due = [trigger for trigger in self._unfinished if over or now_ns >= trigger.complete_at_ns]
        for trigger in due:
            self._unfinished.remove(trigger)
            with self._noting_failures():  # of this file: the others have a right to theirs
                self._write(trigger)

    def _begin(self, reason: str, record: TickRecord | None) -> None:
        now_ns = time.monotonic_ns()
        tick, time_ns = (0, now_ns) if record is None else (record["tick"], record["wakeup_ns"])
        trigger = _Trigger(reason, tick, time_ns, self._path(reason), now_ns + round(_AFTERMATH_S * 1e9))
        self._unfinished.append(trigger)
        with self._noting_failures():
            self._write(trigger)

    def _path(self, reason: str) -> Path:
        # Hundredths of a second: files sort by name in the order of their faults.
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")[:-4]
        label = "".join(letter if letter.isalnum() or letter in "_-" else "-" for letter in reason)[:48]
        return self.directory / f"blackbox-{stamp}-{label.strip('-')}.jsonl"

    def _write(self, trigger: _Trigger) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_black_box(self._content(trigger), trigger.path)
        if trigger.path not in self.files:
            self.files.append(trigger.path)
            self._forget_old()

    def _content(self, trigger: _Trigger) -> BlackBoxContent:
        since_ns = trigger.time_ns - round(SPAN_S * 1e9)
        wanted = round(self._loop.rate_hz * (SPAN_S + 2.0 * _AFTERMATH_S))
        records = self._loop.records(max(0, self._loop.ticks - wanted)).records
        news = self._journal.since()
        header = {
            "reason": trigger.reason,
            "reason_tick": trigger.tick,
            "reason_time_ns": trigger.time_ns,
            "span_s": SPAN_S,
            "written_at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "written_monotonic_ns": time.monotonic_ns(),
            "robot_name": self._config.name,
            "joints": list(self._config.joints),
            "rate_hz": self._loop.rate_hz,
        }
        return BlackBoxContent(
            header=header,
            machine=machine_facts(),
            build=dict(build_config()),
            robot=self._config.as_dict(),
            statistics=dict(self._loop.statistics()),
            events=[change.as_dict() for change in self._changes.kept],
            calls=[vars(call) for call in news.calls],
            chunks=[vars(chunk) for chunk in news.chunks if chunk.pushed_ns >= since_ns],
            ticks=[dict(record) for record in records if record["wakeup_ns"] >= since_ns],
        )

    def _forget_old(self) -> None:
        files = sorted(self.directory.glob("blackbox-*.jsonl"))
        for path in files[: max(0, len(files) - FILES_KEPT)]:
            path.unlink(missing_ok=True)
