"""What the gate did in one episode, read from the loop's telemetry."""

from __future__ import annotations

from typing import TypedDict

from molmoact2_edge.control import ControlLoop, TickRecord
from molmoact2_edge.runtime.latency import Latencies

_MAX_EVENTS = 200  # per episode; a gate that flickers must not fill a report


class GateEvent(TypedDict):
    """A change of state or reason."""

    time_s: float
    """Since the episode's first tick."""
    state: str
    reason: str


class EpisodeTrace:
    """Follows one run of a loop; :meth:`drain` has to be called several times a second."""

    def __init__(self, loop: ControlLoop, after: int, latencies: Latencies) -> None:
        """``after`` is the number of the last record before the run."""
        self.newest = after
        self.lost = 0
        self.events: list[GateEvent] = []
        self.dropped_events = 0
        self.ticks = 0
        self.executed_steps = 0
        self.last: TickRecord | None = None
        self._loop = loop
        self._latencies = latencies
        self._begin_ns: int | None = None
        self._chunk = 0

    def drain(self) -> None:
        """Take in new records."""
        telemetry = self._loop.records(self.newest)
        self.newest, self.lost = telemetry.newest, self.lost + telemetry.lost
        for record in telemetry.records:
            self._take(record)

    def _take(self, record: TickRecord) -> None:
        if self._begin_ns is None:
            self._begin_ns = record["wakeup_ns"]
        self.ticks += 1
        self.executed_steps += record["followed"]
        changed = self.last is None or (self.last["state"], self.last["reason"]) != (
            record["state"],
            record["reason"],
        )
        if changed:
            self._event(record)
        if record["followed"] and record["chunk"] != self._chunk:
            self._chunk = record["chunk"]
            if record["observed_ns"] and record["written_ns"]:
                lag_s = (record["written_ns"] - record["observed_ns"]) * 1e-9
                self._latencies.add("observation_to_action", lag_s)
        self.last = record

    def _event(self, record: TickRecord) -> None:
        if len(self.events) >= _MAX_EVENTS:
            self.dropped_events += 1
            return
        assert self._begin_ns is not None
        since_s = round((record["wakeup_ns"] - self._begin_ns) * 1e-9, 3)
        self.events.append({"time_s": since_s, "state": record["state"], "reason": record["reason"]})
