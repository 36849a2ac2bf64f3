"""What docs/benchmarks says of the loops side by side, checked on the recorded file; nothing is timed here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "docs" / "benchmarks"


@pytest.fixture(scope="module")
def recorded() -> Any:
    return json.loads((BENCHMARKS / "profile-200hz.json").read_text())


def test_the_compiled_loop_is_at_least_20_times_more_punctual(recorded: Any) -> None:
    assert recorded["settings"]["rate_hz"] == 200.0
    assert {"cpu", "gil"} <= set(recorded["settings"]["loads"])
    p99 = {name: loop["period_error"]["p99_ms"] for name, loop in recorded["loops"].items()}
    assert p99["python"] >= 20 * p99["cpp"] > 0
    assert recorded["python_over_cpp"]["period_error_p99"] == pytest.approx(
        p99["python"] / p99["cpp"], rel=0.01
    )


def test_both_loops_ran_all_the_time(recorded: Any) -> None:
    due = recorded["settings"]["rate_hz"] * recorded["settings"]["duration_s"]
    assert due >= 6000
    for loop in recorded["loops"].values():
        # A period that was skipped at the very end has no tick after it.
        assert loop["ticks"] + loop["skipped_periods"] == pytest.approx(due, rel=0.01)
        assert sum(loop["period_error_histogram"]["counts"]) == loop["ticks"] - 1


def test_the_page_beside_it_shows_the_same_run(recorded: Any) -> None:
    page = (BENCHMARKS / "profile-200hz.html").read_text()
    assert f"{recorded['python_over_cpp']['period_error_p99']:g} times" in page
