"""What the system says about a run: time taken by others, swapping, heat, and what the loop's thread was granted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_CPU_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_POLICIES = {
    0: "SCHED_OTHER",
    1: "SCHED_FIFO",
    2: "SCHED_RR",
    3: "SCHED_BATCH",
    5: "SCHED_IDLE",
    6: "SCHED_DEADLINE",
}


@dataclass(frozen=True)
class Counters:
    """Counters of the whole computer since its start; two of them make a :class:`Usage`."""

    cpu_ticks: dict[str, int]
    """Processor time by kind, summed over the cores."""
    swapped_pages: int
    throttlings: int | None
    """Times that a core was slowed down by heat; None where the system does not tell."""


@dataclass(frozen=True)
class Usage:
    """What happened on the whole computer between two counters."""

    shares: dict[str, float]
    """Kind of processor time -> share of all cores' time, 0 to 1."""
    swapped_pages: int
    throttlings: int | None

    @property
    def steal(self) -> float:
        """Share of the time that the hypervisor gave to others, 0 to 1."""
        return self.shares["steal"]


@dataclass(frozen=True)
class ThreadFacts:
    """How the system runs one thread."""

    policy: str
    """``SCHED_FIFO``, ``SCHED_OTHER``, ..."""
    priority: int
    """Of SCHED_FIFO; 0 for normal scheduling."""
    cpus: str
    """The cores that it may use, as a list such as ``0-3``."""
    involuntary_switches: int
    """Times that another thread took its core away."""


def counters(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Counters:
    """Read the counters now."""
    line = (proc / "stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = dict(zip(_CPU_FIELDS, map(int, line), strict=False))
    pages = 0
    for row in (proc / "vmstat").read_text().splitlines():
        name, _, count = row.partition(" ")
        if name in ("pswpin", "pswpout"):
            pages += int(count)
    files = sorted(sys.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"))
    throttlings = sum(int(file.read_text()) for file in files) if files else None
    return Counters(ticks, pages, throttlings)


def usage(before: Counters, after: Counters) -> Usage:
    """Return what happened between two counters."""
    spent = {kind: after.cpu_ticks.get(kind, 0) - before.cpu_ticks.get(kind, 0) for kind in _CPU_FIELDS}
    total = max(1, sum(spent.values()))
    throttlings = None
    if before.throttlings is not None and after.throttlings is not None:
        throttlings = after.throttlings - before.throttlings
    return Usage(
        {kind: round(ticks / total, 5) for kind, ticks in spent.items()},
        after.swapped_pages - before.swapped_pages,
        throttlings,
    )


def thread_ids(proc: Path = Path("/proc")) -> set[int]:
    """Return the system's numbers of this process's threads."""
    return {int(task.name) for task in (proc / "self" / "task").iterdir()}


def thread_facts(thread_id: int, proc: Path = Path("/proc")) -> ThreadFacts | None:
    """Return how the system runs a thread of this process; None when it has ended."""
    task = proc / "self" / "task" / str(thread_id)
    try:
        # The name in brackets may hold blanks; the fields after it are counted from the third.
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        status = _status(task / "status")
    except OSError:
        return None
    return ThreadFacts(
        policy=_POLICIES.get(int(fields[38]), f"policy {fields[38]}"),
        priority=int(fields[37]),
        cpus=status.get("Cpus_allowed_list", ""),
        involuntary_switches=int(status.get("nonvoluntary_ctxt_switches", "0")),
    )


def locked_bytes(proc: Path = Path("/proc")) -> int:
    """Return how much of this process's memory is locked."""
    return int(_status(proc / "self" / "status").get("VmLck", "0 kB").split()[0]) * 1024


def load_average() -> float:
    """Return the mean number of running threads over the last minute."""
    return round(os.getloadavg()[0], 2)


def _status(path: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in path.read_text().splitlines())
    return {name: value.strip() for name, _, value in pairs}
