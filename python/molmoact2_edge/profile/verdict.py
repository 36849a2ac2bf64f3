"""What a measurement means: whether the rate is held, and what to do, by rules that read numbers only.

A rate is held when at least 99.9 % of the ticks end before the next is due: at most one command in a thousand then
comes a period late. Fewer than a thousand ticks cannot show that, so they get no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from molmoact2_edge.profile.ticks import Times, duration

HELD_SHARE = 0.999
FEWEST_TICKS = 1000
UNEVEN_SHARE = 0.2
"""A period error whose p99.9 is above this share of the period is called uneven."""
STEAL_SHARE = 0.005
HELD_BY_GATE_SHARE = 0.01
BUS_SHARE = 0.5
BUS_REASONS = ("state_missing", "state_stale", "state_lost", "bus_write_failed")
"""The gate's reasons that a bus gives."""
RATES_HZ = (10, 20, 25, 30, 50, 60, 100, 125, 200, 250, 400, 500, 1000)

Weight = Literal["act", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that a person can act on ("act"), or should know ("note")."""

    name: str
    weight: Weight
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Evidence:
    """What the rules read. Durations in milliseconds, shares from 0 to 1."""

    rate_hz: float
    loads: tuple[str, ...]
    ticks: int
    in_time_share: float
    """Of the ticks that ended before the next was due; skipped ones count as late."""
    fitting_rate_hz: int | None
    """The highest of :data:`RATES_HZ` that the same delays would allow; None: not even the lowest."""
    error_p99_ms: float
    error_p999_ms: float
    error_max_ms: float
    python_error_p99_ms: float
    bus_p99_ms: float
    held_share: float
    """Of the ticks in which the gate held or refused."""
    held_reason: str
    fifo_asked: bool
    fifo_granted: bool
    memory_asked: bool
    memory_locked: bool
    governor: str | None
    autogroup: bool
    """Whether the scheduler groups processes by their sessions."""
    preempt_rt: bool
    virtual_machine: bool
    steal: float
    swapped_pages: int
    throttlings: int | None
    policy_failure: str | None = None

    @property
    def period_ms(self) -> float:
        return 1e3 / self.rate_hz

    @property
    def uneven(self) -> bool:
        """Whether one period in a thousand is off by a large share of itself."""
        return self.error_p999_ms > UNEVEN_SHARE * self.period_ms

    @property
    def python_ratio(self) -> float:
        """By what factor the Python loop's p99 period error is larger."""
        return self.python_error_p99_ms / max(self.error_p99_ms, 1e-6)


@dataclass(frozen=True)
class Verdict:
    """The end of a report."""

    held: bool | None
    """None: too few ticks to say."""
    text: str
    findings: tuple[Finding, ...]


def in_time_share(completion: Times, skipped: Times, period_ns: float) -> float:
    """Return the share of due ticks that ended within ``period_ns`` of their deadline; 0 without ticks."""
    due = completion.size + int(skipped.sum())
    return float(np.count_nonzero(completion <= period_ns)) / due if due else 0.0


def fitting_rate(completion: Times) -> int | None:
    """Return the highest rate at which 99.9 % of these delays from deadline to end would fit into a period."""
    fitting = [
        rate
        for rate in RATES_HZ
        if completion.size and np.count_nonzero(completion <= 1e9 / rate) >= HELD_SHARE * completion.size
    ]
    return max(fitting, default=None)


def judge(evidence: Evidence) -> Verdict:
    """Apply the rules."""
    findings = tuple(sorted(_findings(evidence), key=lambda finding: finding.weight != "act"))
    load = f"under {_listed(evidence.loads)} load" if evidence.loads else "without load"
    rate = f"{evidence.rate_hz:g} Hz"
    if evidence.ticks < FEWEST_TICKS:
        seconds = FEWEST_TICKS / evidence.rate_hz
        text = (
            f"Too short for a verdict: {evidence.ticks} ticks, at least {FEWEST_TICKS} are needed; "
            f"run for {seconds:g} s or longer."
        )
        return Verdict(None, text, findings)
    held = evidence.in_time_share >= HELD_SHARE
    spread = f"period error p99 {duration(evidence.error_p99_ms)}, p99.9 {duration(evidence.error_p999_ms)}"
    if held:
        text = f"This computer holds {rate} {load}{', unevenly' if evidence.uneven else ''}; {spread}"
    else:
        text = (
            f"This computer does not hold {rate} {load}: {evidence.in_time_share:.2%} of the ticks ended in time, "
            f"{HELD_SHARE:.1%} are needed; {spread}"
        )
        slower = evidence.fitting_rate_hz
        if slower is not None and slower < evidence.rate_hz:
            text += f"; the same delays fit into {slower} Hz"
    deeds = [finding.advice for finding in findings if finding.weight == "act"]
    return Verdict(held, f"{text}; {deeds[0]}." if deeds else f"{text}.", findings)


def _findings(evidence: Evidence) -> list[Finding]:
    found: list[Finding] = []
    if evidence.held_share > HELD_BY_GATE_SHARE:
        found.append(
            Finding(
                "held",
                "act",
                f"The gate held in {evidence.held_share:.1%} of the ticks, mostly for {evidence.held_reason}.",
                f"find out why the robot or its motion gave {evidence.held_reason}",
            )
        )
    elif evidence.held_share > 0.0:
        # A long delay silences the bus for a moment, too: a consequence, not a cause.
        ticks = round(evidence.held_share * evidence.ticks)
        held = f"The gate held in {ticks} of {evidence.ticks} ticks ({evidence.held_reason})."
        found.append(Finding("held", "note", held))
    if evidence.policy_failure is not None:
        found.append(
            Finding(
                "policy",
                "act",
                f"The policy failed, so that it was no load from then on: {evidence.policy_failure}.",
                "see whether `molmoact2-edge predict` works with this checkpoint",
            )
        )
    found += [
        *_scheduling(evidence),
        *_memory(evidence),
        *_power(evidence),
        *_grouping(evidence),
        *_others(evidence),
    ]
    if evidence.bus_p99_ms > BUS_SHARE * evidence.period_ms:
        found.append(
            Finding(
                "bus",
                "act",
                f"The bus takes {duration(evidence.bus_p99_ms)} (p99) of a period of {duration(evidence.period_ms)}.",
                "raise the bus's baud rate or lower the loop's rate",
            )
        )
    if evidence.python_ratio >= 2.0:
        found.append(
            Finding(
                "python",
                "note",
                f"The same loop in Python, beside it, has {evidence.python_ratio:.0f} times its p99 period error "
                f"({duration(evidence.python_error_p99_ms)} to {duration(evidence.error_p99_ms)}).",
            )
        )
    fitting = evidence.fitting_rate_hz
    if fitting is not None and fitting > evidence.rate_hz and evidence.in_time_share >= HELD_SHARE:
        found.append(
            Finding(
                "faster",
                "note",
                f"The delays would fit into {fitting} Hz too; only a measurement with --rate {fitting} shows it.",
            )
        )
    return found


def _scheduling(evidence: Evidence) -> list[Finding]:
    if not evidence.fifo_granted:
        if not evidence.fifo_asked:
            return [
                Finding(
                    "fifo_not_asked",
                    "act",
                    "The loop ran with normal scheduling, because the configuration asks for no other.",
                    "set loop.fifo_priority to 40 in the robot's configuration",
                )
            ]
        return [
            Finding(
                "fifo_refused",
                "act",
                "SCHED_FIFO was refused: every busy process may delay the loop.",
                "allow real-time priority: 'USER - rtprio 95' in /etc/security/limits.conf and log in again, or "
                "'setcap cap_sys_nice+ep' on the Python interpreter, or LimitRTPRIO=95 in a systemd unit",
            )
        ]
    if not evidence.preempt_rt and evidence.uneven and not evidence.virtual_machine:
        return [
            Finding(
                "no_preempt_rt",
                "act",
                "SCHED_FIFO was granted, and periods are still uneven: this kernel is built without PREEMPT_RT.",
                "install a PREEMPT_RT kernel (Debian: linux-image-rt-amd64 or -arm64; Ubuntu: pro enable "
                "realtime-kernel; "
                "Jetson: the real-time kernel packages of JetPack)",
            )
        ]
    if not evidence.preempt_rt:
        needs = (
            "that helps only once the computer is not shared"
            if evidence.uneven
            else "what was measured needs none"
        )
        return [Finding("no_preempt_rt", "note", f"The kernel is built without PREEMPT_RT; {needs}.")]
    return []


def _memory(evidence: Evidence) -> list[Finding]:
    found = []
    if evidence.swapped_pages > 0:
        found.append(
            Finding(
                "swap",
                "act",
                f"The system swapped {evidence.swapped_pages} pages during the run.",
                "free memory, switch swap off (sudo swapoff -a) or set loop.lock_memory: true",
            )
        )
    if evidence.memory_asked and not evidence.memory_locked:
        found.append(
            Finding(
                "memory_lock_refused",
                "act",
                "Memory could not be locked: a page may have to be read from the disk in the middle of a tick.",
                "allow it: 'USER - memlock unlimited' in /etc/security/limits.conf and log in again, or "
                "LimitMEMLOCK=infinity in a systemd unit",
            )
        )
    return found


def _power(evidence: Evidence) -> list[Finding]:
    found = []
    if evidence.governor is not None and evidence.governor != "performance":
        found.append(
            Finding(
                "governor",
                "act",
                f"The frequency governor is {evidence.governor!r}: a core that slept wakes up slow.",
                "set governor to performance (sudo cpupower frequency-set -g performance; Jetson: sudo jetson_clocks)",
            )
        )
    if evidence.throttlings:
        found.append(
            Finding(
                "throttled",
                "act",
                f"Cores were slowed down by heat {evidence.throttlings} times.",
                "cool the computer better or choose a lower power mode that it can sustain",
            )
        )
    return found


def _grouping(evidence: Evidence) -> list[Finding]:
    # The bytes of every tty go through a worker of the kernel, which belongs to no session's group.
    if not (evidence.autogroup and evidence.held_share > 0.0 and evidence.held_reason in BUS_REASONS):
        return []
    return [
        Finding(
            "autogroup",
            "act",
            "The bus was silent at times, and processes are grouped by session: behind a busy session the kernel's "
            "worker that carries a serial line's bytes may wait, for seconds on some kernels.",
            "do without these groups (sudo sysctl kernel.sched_autogroup_enabled=0)",
        )
    ]


def _others(evidence: Evidence) -> list[Finding]:
    advice = "measure on a computer of its own, not on a shared virtual machine"
    if evidence.steal > STEAL_SHARE:
        took = f"The hypervisor took {evidence.steal:.1%} of the processor time: the longest delays are its."
        return [Finding("steal", "act", took, advice)]
    if not evidence.virtual_machine:
        return []
    longest = duration(evidence.error_max_ms)
    if evidence.uneven:
        text = f"This is a virtual machine: delays such as the longest, {longest}, may be its host's."
        return [Finding("virtual_machine", "act", text, advice)]
    text = (
        f"This is a virtual machine: its longest delay ({longest} here) depends on its neighbours and says nothing "
        "about the next run."
    )
    return [Finding("virtual_machine", "note", text)]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
