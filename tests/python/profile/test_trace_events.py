"""The trace against the Trace Event Format: every event with exactly the keys of its phase, and nesting."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from molmoact2_edge.profile import Measurement, trace

_KEYS = {
    "X": {
        "name": str,
        "cat": str,
        "ph": str,
        "ts": float,
        "dur": float,
        "pid": int,
        "tid": int,
        "args": dict,
    },
    "C": {"name": str, "ph": str, "ts": float, "pid": int, "args": dict},
    "i": {"name": str, "cat": str, "ph": str, "ts": float, "pid": int, "tid": int, "s": str},
    "M": {"name": str, "ph": str, "pid": int, "tid": int, "args": dict},
}
_NAMES = {
    "process_name": {"name": str},
    "thread_name": {"name": str},
    "thread_sort_index": {"sort_index": int},
}


def check_schema(document: dict[str, Any]) -> None:
    assert set(document) == {"traceEvents", "displayTimeUnit"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    last = 0.0
    for event in document["traceEvents"]:
        keys = _KEYS[event["ph"]]
        assert set(event) == set(keys), event
        for key, kind in keys.items():
            assert isinstance(event[key], (int, float) if kind is float else kind), event
            assert not isinstance(event[key], bool)
        if event["ph"] == "M":
            kinds = _NAMES[event["name"]]
            assert {name: type(value) for name, value in event["args"].items()} == kinds
            continue
        assert event["ts"] >= last, "events are not in the order of their time"
        last = event["ts"]
        if event["ph"] == "X":
            assert event["dur"] >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, (int, float)) for value in event["args"].values())
        if event["ph"] == "i":
            assert event["s"] in ("g", "p", "t")


def test_the_trace_fits_the_format(measurement: Measurement) -> None:
    document = json.loads(json.dumps(trace(measurement), allow_nan=False))
    check_schema(document)
    named = {e["args"]["name"] for e in document["traceEvents"] if e["name"] == "thread_name"}
    assert named == {"control loop (C++)", "the same loop in Python", "policy", "safety gate"}


def test_every_tick_holds_its_stages_and_every_call_its_own(measurement: Measurement) -> None:
    events = trace(measurement)["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    ticks = [span for span in spans if span["name"] == "tick" and span["tid"] == 1]
    assert len(ticks) == len(measurement.cpp)
    assert ticks[0]["ts"] == round(float(measurement.cpp.lateness()[0]) / 1e3, 3)
    for outer, inner in (("tick", ("read", "compute", "write")), ("predict", ("vision", "flow"))):
        outside = [span for span in spans if span["name"] == outer and span["tid"] in (1, 3)]
        begins = np.array([span["ts"] for span in outside])
        for span in spans:
            if span["name"] not in inner or span["tid"] not in (1, 3):
                continue
            around = outside[int(np.searchsorted(begins, span["ts"], "right")) - 1]
            # Times are rounded to a nanosecond each.
            assert span["ts"] + span["dur"] <= around["ts"] + around["dur"] + 0.003


def test_skipped_periods_and_changes_of_the_gate_are_marked(measurement: Measurement) -> None:
    marks = [event["name"] for event in trace(measurement)["traceEvents"] if event["ph"] == "i"]
    assert marks == ["running", "holding: chunk_late", "2 periods skipped"]
