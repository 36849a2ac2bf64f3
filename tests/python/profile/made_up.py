"""A made-up measurement: what the arithmetic, the rules and the files are tested on; and who is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from molmoact2_edge.profile import Measurement, Ticks
from molmoact2_edge.profile.calls import Call
from molmoact2_edge.profile.system_watch import ThreadFacts, Usage

PERIOD_NS = 5_000_000
BEGIN_NS = 1_000_000_000
JOINTS = 6


def make_ticks(lateness_us: Any, busy_us: float = 40.0, skipped: Any = 0, ticks: int = 2000) -> Ticks:
    deadline = BEGIN_NS + np.arange(ticks, dtype=np.int64) * PERIOD_NS
    late = (np.broadcast_to(np.asarray(lateness_us, dtype=np.float64), (ticks,)) * 1e3).astype(np.int64)
    poses = np.sin(np.arange(ticks)[:, None] / 100.0 + np.arange(JOINTS)) * 5.0
    return Ticks(
        deadline=deadline,
        wakeup=deadline + late,
        read=np.full(ticks, 5_000, dtype=np.int64),
        write=np.full(ticks, 3_000, dtype=np.int64),
        busy=np.full(ticks, int(busy_us * 1e3), dtype=np.int64),
        skipped=np.broadcast_to(np.asarray(skipped, dtype=np.int64), (ticks,)).copy(),
        target=poses,
        command=poses,
        measured=poses - 0.1,
    )


def make_measurement(calls: int = 3) -> Measurement:
    rng = np.random.default_rng(4)
    skipped = np.zeros(2000, dtype=np.int64)
    skipped[700] = 2
    return Measurement(
        begin_ns=BEGIN_NS,
        end_ns=BEGIN_NS + 2000 * PERIOD_NS,
        period_ns=PERIOD_NS,
        cpp=make_ticks(rng.exponential(10.0, 2000)),
        python=make_ticks(rng.exponential(2000.0, 2000), busy_us=120.0, skipped=skipped),
        states={"running": 2000},
        reasons={"none": 1999, "acceleration_limit": 1},
        held_reasons={},
        events=[(BEGIN_NS, "running", "none"), (BEGIN_NS + 10 * PERIOD_NS, "holding", "chunk_late")],
        warnings=[],
        cpp_thread=ThreadFacts("SCHED_FIFO", 40, "0-1", 2),
        python_thread=ThreadFacts("SCHED_FIFO", 39, "0-1", 900),
        locked_bytes=1 << 20,
        load_before=0.25,
        usage=Usage({"user": 0.9, "idle": 0.1, "steal": 0.0}, 0, None),
        calls=[Call(BEGIN_NS + i * 50_000_000, {"vision": 0.01, "flow": 0.02}, 0.0305) for i in range(calls)],
    )


def children(parent: int) -> list[int]:
    """The numbers of a process's children that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
