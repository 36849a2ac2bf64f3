"""Durations that the loop keeps: from the exposure of an image to the command that it led to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from molmoact2_edge.control import ControlLoop, JointLimits, MailboxPort
from molmoact2_edge.runtime import Runner, build_report
from molmoact2_edge.runtime.interruption import Interruption

PERIOD_NS = 20_000_000


def test_observation_to_action_is_from_the_exposure_to_the_write() -> None:
    port, row = MailboxPort(2), np.ones(2)
    loop = ControlLoop(port, JointLimits(-100 * row, 100 * row, 90 * row, 450 * row, 30 * row), mode="async")
    now = 1_000_000_000
    loop.begin_stepped(now)

    def tick() -> None:
        nonlocal now
        now += PERIOD_NS
        port.publish_state(np.zeros(2), now)
        loop.tick(now)

    for _ in range(5):
        tick()
    exposed = now - 33_000_000
    observation = loop.observation_at(exposed)
    assert observation is not None
    assert observation.time_ns == exposed
    tick()
    loop.push(np.zeros((20, 2)), observation)
    for _ in range(4):
        tick()
    written = [record for record in loop.records().records if record["observed_ns"]]
    assert {record["observed_ns"] for record in written} == {exposed}
    ages = [record["written_ns"] - exposed for record in written if record["followed"]]
    assert ages == [73_000_000 + k * PERIOD_NS for k in range(len(ages))]
    statistics = loop.statistics()
    assert statistics["observation_age"]["count"] == len(ages) >= 3
    assert statistics["observation_age"]["max_s"] == pytest.approx(max(ages) * 1e-9)
    assert statistics["observation_to_action"]["count"] == 1
    assert statistics["observation_to_action"]["max_s"] == pytest.approx(ages[0] * 1e-9)


def test_a_report_has_every_histogram_of_the_loop(runner_for: Callable[..., Runner]) -> None:
    runner = runner_for(episodes=1, duration_s=0.6)
    runner.run(Interruption())
    report = build_report(runner, {})
    loop = report["loop"]
    for name in (
        "period",
        "wakeup_latency",
        "bus",
        "busy",
        "state_age",
        "observation_age",
        "observation_to_action",
    ):
        spread = loop[name]
        assert spread["count"] > 0, name
        assert spread["p50_ms"] <= spread["p99_ms"] <= spread["max_ms"]
    assert loop["observation_age"]["count"] <= loop["executed_steps"]
    assert loop["observation_to_action"]["count"] == report["latency"]["observation_to_action"]["count"]
    assert loop["observation_to_action"]["max_ms"] == pytest.approx(
        report["latency"]["observation_to_action"]["max_ms"], abs=0.01
    )
