"""The measurement as trace events, the JSON that Perfetto (ui.perfetto.dev) and chrome://tracing read.

Times are microseconds from the window's beginning. Format: "Trace Event Format" of the Chromium project; used are
complete events (``X``), counters (``C``), instants (``i``) and names (``M``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from molmoact2_edge.profile.calls import Call
from molmoact2_edge.profile.session import Measurement
from molmoact2_edge.profile.ticks import Ticks

_PROCESS = 1
_CPP, _PYTHON, _POLICY, _GATE = 1, 2, 3, 4
_THREADS = {
    _CPP: "control loop (C++)",
    _PYTHON: "the same loop in Python",
    _POLICY: "policy",
    _GATE: "safety gate",
}


def trace(measurement: Measurement) -> dict[str, Any]:
    """Return the JSON object."""
    begin = measurement.begin_ns
    events = [
        {
            "name": "process_name",
            "ph": "M",
            "pid": _PROCESS,
            "tid": 0,
            "args": {"name": "molmoact2-edge profile"},
        }
    ]
    for thread, name in _THREADS.items():
        for key, value in (("thread_name", {"name": name}), ("thread_sort_index", {"sort_index": thread})):
            events.append({"name": key, "ph": "M", "pid": _PROCESS, "tid": thread, "args": value})
    period = measurement.period_ns
    timed = [
        *_ticks(measurement.cpp, _CPP, "C++", begin, period),
        *_ticks(measurement.python, _PYTHON, "Python", begin, period),
        *_calls(measurement.calls, begin),
        *_gate(measurement, begin),
    ]
    # Outer events before inner ones that begin with them.
    timed.sort(key=lambda event: (event["ts"], -event.get("dur", 0.0)))
    return {"traceEvents": [*events, *timed], "displayTimeUnit": "ms"}


def _us(nanoseconds: int) -> float:
    return round(int(nanoseconds) / 1e3, 3)


def _span(name: str, thread: int, begin_ns: int, duration_ns: int, **arguments: Any) -> dict[str, Any]:
    return {
        "name": name,
        "cat": "loop" if thread in (_CPP, _PYTHON) else "policy",
        "ph": "X",
        "ts": _us(begin_ns),
        "dur": _us(duration_ns),
        "pid": _PROCESS,
        "tid": thread,
        "args": arguments,
    }


def _ticks(ticks: Ticks, thread: int, label: str, begin: int, period: int) -> Iterator[dict[str, Any]]:
    stages = ticks.stages()
    errors = ticks.period_errors(period)
    for i in range(len(ticks)):
        at = int(ticks.wakeup[i]) - begin
        yield _span("tick", thread, at, int(ticks.busy[i]), late_us=_us(int(stages["wake-up"][i])))
        for stage in ("read", "compute", "write"):
            duration = max(0, int(stages[stage][i]))
            yield _span(stage, thread, at, duration)
            at += duration
        if i > 0:
            yield {
                "name": f"period error, {label} (us)",
                "ph": "C",
                "ts": _us(int(ticks.wakeup[i]) - begin),
                "pid": _PROCESS,
                "args": {"error": _us(int(errors[i - 1]))},
            }
        if ticks.skipped[i] > 0:
            yield _instant(
                f"{int(ticks.skipped[i])} periods skipped",
                thread,
                int(ticks.wakeup[i] + ticks.busy[i]) - begin,
            )


def _instant(name: str, thread: int, at_ns: int) -> dict[str, Any]:
    return {
        "name": name,
        "cat": "event",
        "ph": "i",
        "ts": _us(at_ns),
        "pid": _PROCESS,
        "tid": thread,
        "s": "t",
    }


def _calls(calls: list[Call], begin: int) -> Iterator[dict[str, Any]]:
    for call in calls:
        at = call.begin_ns - begin
        yield _span("predict", _POLICY, at, round(call.total_s * 1e9))
        for stage, seconds in call.stages.items():
            yield _span(stage, _POLICY, at, round(seconds * 1e9))
            at += round(seconds * 1e9)


def _gate(measurement: Measurement, begin: int) -> Iterator[dict[str, Any]]:
    for at, state, reason in measurement.events:
        yield _instant(state if reason == "none" else f"{state}: {reason}", _GATE, at - begin)
