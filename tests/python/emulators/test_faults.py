"""Scripts of faults: what is written is what happens, when it says; what is no fault is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_edge.errors import InputError
from molmoact2_emulators.faults import FaultPlan

KNOWN = {"corrupt": ("probability",), "absent": ("servo",), "delay": ("probability", "seconds"), "unplug": ()}


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plan(clock: Clock) -> FaultPlan:
    return FaultPlan(KNOWN, clock=clock)


def test_a_script_says_when(plan: FaultPlan, clock: Clock, tmp_path: Path) -> None:
    script = tmp_path / "faults"
    script.write_text("# a comment\n\n2.0 absent servo=3 duration=2  # the elbow\n5 unplug\n")
    plan.read(script)
    assert not plan.empty
    seen = []
    for second in range(8):
        clock.now = 100.0 + second
        seen.append((plan.on("absent", servo=3), plan.on("absent", servo=4), plan.on("unplug")))
    assert [three for three, _, _ in seen] == [False, False, True, True, False, False, False, False]
    assert not any(four for _, four, _ in seen)
    assert [unplugged for _, _, unplugged in seen] == [False] * 5 + [True] * 3


def test_seconds_count_from_the_start(plan: FaultPlan, clock: Clock) -> None:
    plan.add("1 unplug", timed=True)
    clock.now = 150.0
    plan.start()
    assert not plan.on("unplug")
    clock.now = 151.0
    assert plan.on("unplug")


def test_a_line_without_a_time_counts_from_its_arrival_until_it_is_cleared(
    plan: FaultPlan, clock: Clock
) -> None:
    clock.now += 7.0
    plan.add("absent servo=2\n")
    plan.add("unplug duration=1")
    assert plan.on("absent", servo=2)
    assert plan.on("unplug")
    clock.now += 1.0
    assert plan.on("absent", servo=2)
    assert not plan.on("unplug")
    plan.add("clear absent")
    assert not plan.on("absent", servo=2)
    plan.add("absent servo=2")
    assert plan.on("absent", servo=2)


def test_nothing_goes_wrong_in_an_empty_plan(plan: FaultPlan) -> None:
    assert plan.empty
    assert plan.active("corrupt") == []
    assert plan.strikes("corrupt") is None


def test_probabilities_are_drawn_and_repeat_with_the_seed(clock: Clock) -> None:
    def hits(seed: int) -> list[bool]:
        plan = FaultPlan(KNOWN, seed, clock)
        plan.add("corrupt probability=0.25")
        return [plan.strikes("corrupt") is not None for _ in range(4000)]

    # Four standard deviations of 4000 draws.
    assert 0.25 - 0.028 < sum(hits(1)) / 4000 < 0.25 + 0.028
    assert hits(1) == hits(1)
    assert hits(1) != hits(2)


def test_the_fault_that_strikes_brings_its_values(plan: FaultPlan) -> None:
    plan.add("delay probability=1 seconds=0.02")
    late = plan.strikes("delay")
    assert late is not None
    assert late["seconds"] == 0.02
    assert {plan.draw(3) for _ in range(100)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("explode", "no fault 'explode' here; there are absent, corrupt, delay, unplug"),
        ("absent", "absent wants servo"),
        ("absent servo=1 motor=2", "absent wants servo"),
        ("unplug servo=1", "unplug wants no keys"),
        ("corrupt probability=often", "expected a number, got 'often'"),
        ("corrupt probability=nan", "expected a number"),
        ("corrupt probability", "expected key=value"),
        ("unplug duration=-1", "at least 0"),
        ("clear", "wants the name of one fault"),
        ("clear explode", "wants the name of one fault"),
    ],
)
def test_what_is_no_fault_is_refused(plan: FaultPlan, line: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        plan.add(line)
    assert words in str(caught.value)
    assert plan.empty


def test_a_script_names_the_line_that_is_wrong(plan: FaultPlan, tmp_path: Path) -> None:
    script = tmp_path / "faults"
    script.write_text("1 unplug\nsoon unplug\n")
    with pytest.raises(InputError, match=f"{script}:2: .*'soon'"):
        plan.read(script)
    script.write_text("1\n")
    with pytest.raises(InputError, match=":1: a time without a fault"):
        plan.read(script)
    with pytest.raises(InputError, match="not readable"):
        plan.read(tmp_path / "none")


@given(
    st.text(max_size=60)
    | st.from_regex(r"(corrupt|unplug|clear|delay)( [a-z]+=[-0-9a-z.]*){0,3}", fullmatch=True)
)
def test_any_line_is_taken_or_refused(line: str) -> None:
    plan = FaultPlan(KNOWN, clock=Clock())
    for timed in (False, True):
        try:
            plan.add(line, timed)
        except InputError:
            continue
        for name in KNOWN:
            for fault in plan.active(name):
                assert fault.begin_s <= plan.now_s() < fault.end_s
                assert set(KNOWN[name]) == set(fault.values)


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5), st.integers(1, 6)), max_size=8), st.floats(0, 20)
)
def test_a_fault_lasts_from_its_begin_to_its_end(faults: list[tuple[float, float, int]], at: float) -> None:
    clock = Clock()
    clock.now = 0.0
    plan = FaultPlan(KNOWN, clock=clock)
    for begin, duration, servo in faults:
        plan.add(f"{begin!r} absent servo={servo} duration={duration!r}", timed=True)
    clock.now = at
    for servo in range(1, 7):
        expected = any(begin <= at < begin + duration for begin, duration, who in faults if who == servo)
        assert plan.on("absent", servo=servo) == expected
