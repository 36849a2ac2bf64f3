"""The ticks of one loop as arrays, and what is computed from them. Pure: a test passes its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from molmoact2_edge.control import TickRecord

Times = npt.NDArray[np.int64]
Poses = npt.NDArray[np.float64]

STAGES = ("wake-up", "read", "compute", "write")
"""The parts of a tick in their order: from the deadline to its beginning, bus in, splice and gate, bus out."""

_EDGES_PER_DECADE = 10
_LOWEST_US, _HIGHEST_US = 1.0, 1e6


class Spread(TypedDict):
    """Milliseconds."""

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Histogram(TypedDict):
    """Counts between edges that are evenly spaced on a logarithmic scale; the first bin starts at 0."""

    edges_us: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Ticks:
    """One row a tick; times in nanoseconds on the monotonic clock, poses (ticks, joints) in the joints' units."""

    deadline: Times
    wakeup: Times
    read: Times
    """Duration of the bus exchange that reads the pose."""
    write: Times
    busy: Times
    """From the tick's beginning to its end."""
    skipped: Times
    """Whole periods left out after the tick."""
    target: Poses
    command: Poses
    measured: Poses

    def __len__(self) -> int:
        return int(self.wakeup.size)

    @classmethod
    def from_records(cls, records: Sequence[TickRecord]) -> Ticks:
        """Of a compiled loop's telemetry."""

        def times(key: str) -> Times:
            return np.array([record[key] for record in records], dtype=np.int64)  # type: ignore[literal-required]

        def poses(key: str) -> Poses:
            return np.array([record[key] for record in records], dtype=np.float64)  # type: ignore[literal-required]

        return cls(
            deadline=times("deadline_ns"),
            wakeup=times("wakeup_ns"),
            read=times("read_ns"),
            write=times("write_ns"),
            busy=times("busy_ns"),
            skipped=times("skipped_periods"),
            target=poses("target"),
            command=poses("command"),
            measured=poses("measured"),
        )

    def between(self, begin_ns: int, end_ns: int) -> Ticks:
        """Return the ticks that were due from ``begin_ns`` up to before ``end_ns``."""
        chosen = (self.deadline >= begin_ns) & (self.deadline < end_ns)
        return Ticks(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def lateness(self) -> Times:
        """Return (ticks,) nanoseconds from the deadline to the tick's beginning."""
        return self.wakeup - self.deadline

    def completion(self) -> Times:
        """Return (ticks,) nanoseconds from the deadline to the tick's end."""
        return self.lateness() + self.busy

    def period_errors(self, period_ns: int) -> Times:
        """Return (ticks - 1,) by how many nanoseconds the time between two ticks differs from the period."""
        errors: Times = np.abs(np.diff(self.wakeup) - period_ns)
        return errors

    def stages(self) -> dict[str, Times]:
        """Return the duration of each of :data:`STAGES`, (ticks,) nanoseconds."""
        return {
            "wake-up": self.lateness(),
            "read": self.read,
            "compute": self.busy - self.read - self.write,
            "write": self.write,
        }


def spread(nanoseconds: Times) -> Spread:
    """Return mean, quantiles and maximum; zeros where there is nothing."""
    if nanoseconds.size == 0:
        return {
            "count": 0, "mean_ms": 0.0, "p50_ms": 0.0, "p95_ms": 0.0, "p99_ms": 0.0, "p999_ms": 0.0, "max_ms": 0.0
        }  # fmt: skip
    # "higher": a quantile is a duration that did occur.
    p50, p95, p99, p999 = np.percentile(nanoseconds, [50, 95, 99, 99.9], method="higher") / 1e6
    return {
        "count": int(nanoseconds.size),
        "mean_ms": round(float(nanoseconds.mean()) / 1e6, 4),
        "p50_ms": round(float(p50), 4),
        "p95_ms": round(float(p95), 4),
        "p99_ms": round(float(p99), 4),
        "p999_ms": round(float(p999), 4),
        "max_ms": round(float(nanoseconds.max()) / 1e6, 4),
    }


def duration(milliseconds: float) -> str:
    """Return a duration for people: three digits, microseconds below one millisecond."""
    if milliseconds < 1.0:
        return f"{milliseconds * 1e3:.3g} µs"
    return f"{milliseconds:.3g} ms" if milliseconds < 1000.0 else f"{milliseconds / 1e3:.3g} s"


def histogram(nanoseconds: Times) -> Histogram:
    """Count durations in ten bins a decade from 1 microsecond to a second; longer ones are in the last bin."""
    decades = round(float(np.log10(_HIGHEST_US / _LOWEST_US)))
    edges = _LOWEST_US * 10.0 ** (np.arange(decades * _EDGES_PER_DECADE + 1) / _EDGES_PER_DECADE)
    microseconds = np.clip(nanoseconds / 1e3, 0.0, _HIGHEST_US)
    counts, _ = np.histogram(microseconds, np.concatenate([[0.0], edges]))
    return {"edges_us": [round(float(edge), 3) for edge in edges], "counts": [int(count) for count in counts]}


class Buckets(TypedDict):
    """The largest value of each stretch of time; None where nothing happened in it."""

    width_s: float
    max_ms: list[float | None]


def largest_over_time(
    times: Times, nanoseconds: Times, begin_ns: int, end_ns: int, count: int = 600
) -> Buckets:
    """Return the largest duration in each of ``count`` equal stretches from ``begin_ns`` to ``end_ns``."""
    width = (end_ns - begin_ns) / count
    places = np.clip(((times - begin_ns) / width).astype(np.int64), 0, count - 1)
    largest = np.full(count, -1, dtype=np.int64)
    np.maximum.at(largest, places, nanoseconds)
    return {
        "width_s": width / 1e9,
        "max_ms": [None if value < 0 else round(float(value) / 1e6, 4) for value in largest],
    }
