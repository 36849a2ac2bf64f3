"""The rules of the verdict, each from made-up evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from molmoact2_edge.profile import Evidence, judge
from molmoact2_edge.profile.verdict import fitting_rate, in_time_share

GOOD = Evidence(
    rate_hz=200.0,
    loads=("cpu", "gil", "io"),
    ticks=6000,
    in_time_share=0.9999,
    fitting_rate_hz=200,
    error_p99_ms=0.05,
    error_p999_ms=0.4,
    error_max_ms=1.3,
    python_error_p99_ms=0.06,
    bus_p99_ms=0.002,
    held_share=0.0,
    held_reason="none",
    fifo_asked=True,
    fifo_granted=True,
    memory_asked=True,
    memory_locked=True,
    governor="performance",
    autogroup=False,
    preempt_rt=True,
    virtual_machine=False,
    steal=0.0,
    swapped_pages=0,
    throttlings=0,
)


def names(evidence: Evidence) -> list[str]:
    return [finding.name for finding in judge(evidence).findings]


def test_a_good_computer_holds_its_rate_and_has_nothing_to_do() -> None:
    verdict = judge(GOOD)
    assert verdict.held is True
    assert verdict.text == (
        "This computer holds 200 Hz under cpu, gil and io load; period error p99 50 µs, p99.9 400 µs."
    )
    assert verdict.findings == ()


def test_the_load_is_named() -> None:
    assert "without load" in judge(replace(GOOD, loads=())).text
    assert "under gil load" in judge(replace(GOOD, loads=("gil",))).text


def test_a_rate_is_held_by_999_ticks_in_1000() -> None:
    assert judge(replace(GOOD, in_time_share=0.999)).held is True
    verdict = judge(replace(GOOD, in_time_share=0.9989, fitting_rate_hz=100))
    assert verdict.held is False
    assert "does not hold 200 Hz" in verdict.text
    assert "99.89% of the ticks ended in time, 99.9% are needed" in verdict.text
    assert "fit into 100 Hz" in verdict.text
    assert "fit into" not in judge(replace(GOOD, in_time_share=0.5, fitting_rate_hz=None)).text


@pytest.mark.parametrize(
    ("change", "advised"),
    [
        ({}, True),
        ({"held_reason": "bus_write_failed"}, True),
        ({"held_reason": "camera_stale"}, False),
        ({"held_share": 0.0, "held_reason": "none"}, False),
        ({"autogroup": False}, False),
    ],
)
def test_autogroups_are_blamed_only_where_a_bus_was_silent(change: dict[str, object], advised: bool) -> None:
    silent = replace(GOOD, autogroup=True, held_share=0.002, held_reason="state_stale")
    verdict = judge(replace(silent, **change))  # type: ignore[arg-type]
    assert ("sched_autogroup_enabled=0" in verdict.text) is advised
    assert ("autogroup" in [finding.name for finding in verdict.findings]) is advised


def test_a_thousand_ticks_are_needed_for_a_verdict() -> None:
    verdict = judge(replace(GOOD, ticks=999))
    assert verdict.held is None
    assert "run for 5 s or longer" in verdict.text
    assert judge(replace(GOOD, ticks=1000)).held is True


def test_long_errors_are_said_to_be_uneven() -> None:
    assert "unevenly" not in judge(replace(GOOD, error_p999_ms=1.0)).text
    assert (
        "holds 200 Hz under cpu, gil and io load, unevenly" in judge(replace(GOOD, error_p999_ms=1.01)).text
    )


def test_the_verdict_ends_with_the_first_thing_to_do() -> None:
    verdict = judge(replace(GOOD, governor="powersave", preempt_rt=False))
    assert verdict.text.endswith(
        "; set governor to performance (sudo cpupower frequency-set -g performance; Jetson: sudo jetson_clocks)."
    )
    assert [(f.name, f.weight) for f in verdict.findings] == [("governor", "act"), ("no_preempt_rt", "note")]


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({"fifo_granted": False}, "fifo_refused", ("limits.conf", "setcap", "systemd")),
        ({"fifo_granted": False, "fifo_asked": False}, "fifo_not_asked", ("fifo_priority",)),
        ({"memory_locked": False}, "memory_lock_refused", ("memlock", "LimitMEMLOCK")),
        ({"governor": "ondemand"}, "governor", ("performance",)),
        ({"steal": 0.02}, "steal", ("virtual machine",)),
        ({"swapped_pages": 3}, "swap", ("swapoff",)),
        ({"throttlings": 2}, "throttled", ("cool",)),
        ({"bus_p99_ms": 2.6}, "bus", ("baud",)),
        ({"preempt_rt": False, "error_p999_ms": 2.0}, "no_preempt_rt", ("PREEMPT_RT kernel",)),
        ({"policy_failure": "InputError: x"}, "policy", ("predict",)),
        ({"held_share": 0.2, "held_reason": "state_stale"}, "held", ("state_stale",)),
    ],
)
def test_each_finding_that_asks_for_something_says_how(
    change: dict[str, object], name: str, words: tuple[str, ...]
) -> None:
    evidence = replace(GOOD, **change)  # type: ignore[arg-type]
    (finding,) = judge(evidence).findings
    assert (finding.name, finding.weight) == (name, "act")
    for word in words:
        assert word in finding.advice


@pytest.mark.parametrize(
    "change",
    [
        {"memory_asked": False, "memory_locked": False},
        {"governor": None},
        {"steal": 0.005},
        {"throttlings": None},
        {"bus_p99_ms": 2.5},
    ],
)
def test_what_is_within_bounds_is_not_mentioned(change: dict[str, object]) -> None:
    assert names(replace(GOOD, **change)) == []  # type: ignore[arg-type]


def test_notes_ask_for_nothing() -> None:
    evidence = replace(
        GOOD, preempt_rt=False, virtual_machine=True, python_error_p99_ms=5.0, fitting_rate_hz=1000
    )
    findings = judge(evidence).findings
    assert [finding.name for finding in findings] == ["no_preempt_rt", "virtual_machine", "python", "faster"]
    assert not any(finding.advice for finding in findings)
    assert "100 times" in findings[2].text


def test_few_holds_are_a_consequence_many_a_cause() -> None:
    few = judge(replace(GOOD, held_share=1 / 6000, held_reason="bus_write_failed")).findings
    assert [(f.name, f.weight, f.text) for f in few] == [
        ("held", "note", "The gate held in 1 of 6000 ticks (bus_write_failed).")
    ]
    many = judge(replace(GOOD, held_share=0.011, held_reason="state_stale")).findings
    assert [(f.name, f.weight) for f in many] == [("held", "act")]


def test_delays_of_a_virtual_machine_may_be_its_hosts() -> None:
    evidence = replace(GOOD, preempt_rt=False, error_p999_ms=33.0, error_max_ms=178.6, virtual_machine=True)
    findings = judge(evidence).findings
    assert [(f.name, f.weight) for f in findings] == [("virtual_machine", "act"), ("no_preempt_rt", "note")]
    assert "179 ms" in findings[0].text


def test_what_the_hypervisor_took_is_not_blamed_on_the_kernel() -> None:
    evidence = replace(GOOD, preempt_rt=False, error_p999_ms=3.0, steal=0.05, virtual_machine=True)
    assert [(f.name, f.weight) for f in judge(evidence).findings] == [
        ("steal", "act"),
        ("no_preempt_rt", "note"),
    ]


def test_ticks_in_time() -> None:
    completion = np.array([1, 5, 6, 2], dtype=np.int64)
    assert in_time_share(completion, np.zeros(4, np.int64), 5) == 0.75
    assert in_time_share(completion, np.array([0, 0, 4, 0]), 5) == 3 / 8
    assert in_time_share(np.array([], np.int64), np.array([], np.int64), 5) == 0.0


def test_the_rate_that_fits_leaves_out_one_tick_in_a_thousand() -> None:
    completion = np.full(1000, 900_000, dtype=np.int64)
    assert fitting_rate(completion) == 1000
    completion[0] = 30_000_000
    assert fitting_rate(completion) == 1000
    completion[1] = 30_000_000
    assert fitting_rate(completion) == 30
    assert fitting_rate(completion * 10_000) is None
    assert fitting_rate(np.array([], np.int64)) is None
