"""The loop in Python does the work that it is compared by: it follows the motion and keeps the limits."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from molmoact2_edge.config import load_robot
from molmoact2_edge.control import LoopbackPort
from molmoact2_edge.errors import InputError
from molmoact2_edge.profile import ProfileSettings, Ticks, with_rate
from molmoact2_edge.profile.python_loop import PythonLoop
from molmoact2_edge.profile.session import gate_events, swing_actions

CONFIG = load_robot("so101")
MIDDLE = np.array([0.5 * sum(joint.position) for joint in CONFIG.joints.values()])


def run(actions: np.ndarray, ticks: int) -> Ticks:
    loop = PythonLoop(
        LoopbackPort(MIDDLE, 0.0),
        CONFIG.limits(),
        actions,
        rate_hz=500.0,
        actions_per_step=30.0 / 500.0,
        duration_s=(ticks - 1) / 500.0,
    )
    loop.start()
    thread = next(thread for thread in threading.enumerate() if thread.name == "python-loop")
    thread.join(60.0)
    found = loop.stop()
    assert len(found) == ticks
    return found


def test_it_interpolates_the_actions_and_commands_them() -> None:
    ticks = run(swing_actions(MIDDLE, CONFIG, 5.0, 0.0, 30.0, 40), 200)
    assert np.allclose(ticks.command, ticks.target, atol=1e-9)
    places = np.arange(200) * 30.0 / 500.0
    expected = np.stack(
        [
            np.interp(places, np.arange(40), column)
            for column in swing_actions(MIDDLE, CONFIG, 5.0, 0.0, 30.0, 40).T
        ],
        axis=1,
    )
    assert np.allclose(ticks.target, expected, atol=1e-9)
    assert (np.diff(ticks.deadline) == 2_000_000 * (1 + ticks.skipped[:-1])).all()
    assert (ticks.lateness() >= 0).all()


def test_its_gate_refuses_a_jump_and_keeps_velocity_and_acceleration() -> None:
    limits = CONFIG.limits()
    actions = swing_actions(MIDDLE, CONFIG, 5.0, 0.0, 30.0, 40)
    actions[10:20] += 90.0
    actions[25] = np.nan
    ticks = run(actions, 300)
    velocity = np.diff(ticks.command, axis=0) * 500.0
    assert np.isfinite(ticks.command).all()
    assert (np.abs(velocity) <= limits.velocity_max * (1 + 1e-9)).all()
    assert (np.abs(np.diff(velocity, axis=0)) * 500.0 <= limits.acceleration_max * (1 + 1e-6)).all()


def test_the_swing_starts_at_rest_and_stays_within_the_limits() -> None:
    limits = CONFIG.limits()
    edge = limits.position_max - 0.5
    for pose in (MIDDLE, edge):
        actions = swing_actions(pose, CONFIG, 30.0, 0.0, 100.0, 2000)
        assert np.allclose(actions[0], pose)
        assert np.abs(actions[1] - actions[0]).max() < 0.05
        assert (actions >= limits.position_min).all()
        assert (actions <= limits.position_max).all()
        assert (np.ptp(actions, axis=0) > 10.0).all()
    assert np.array_equal(swing_actions(MIDDLE, CONFIG, 0.0, 0.0, 30.0, 5), np.tile(MIDDLE, (5, 1)))
    # A later chunk goes on where the one before it was.
    whole = swing_actions(MIDDLE, CONFIG, 5.0, 0.0, 30.0, 60)
    assert np.allclose(swing_actions(MIDDLE, CONFIG, 5.0, 1.0, 30.0, 30), whole[30:])


@pytest.mark.parametrize(
    ("values", "named"),
    [({"rate_hz": 5.0}, "rate"), ({"duration_s": 0.5}, "duration"), ({"duration_s": float("nan")}, "duration"),
     ({"rate_hz": 1000.0, "duration_s": 600.0}, "--duration 120"), ({"swing": 90.0}, "swing")],
)  # fmt: skip
def test_settings_that_cannot_be_measured_are_refused(values: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        ProfileSettings(**values)  # type: ignore[arg-type]


def test_another_rate_keeps_chunks_within_it() -> None:
    assert with_rate(CONFIG, 200.0).chunk.rate_hz == 30.0
    slow = with_rate(CONFIG, 20.0)
    assert (slow.loop.rate_hz, slow.chunk.rate_hz) == (20.0, 20.0)
    assert replace(slow, loop=CONFIG.loop, chunk=CONFIG.chunk) == CONFIG


def test_changes_of_the_gate() -> None:
    rows = [("running", "none"), ("running", "none"), ("holding", "jump"), ("running", "none")]
    records = [{"wakeup_ns": i, "state": state, "reason": reason} for i, (state, reason) in enumerate(rows)]
    assert gate_events(records) == [(0, "running", "none"), (2, "holding", "jump"), (3, "running", "none")]  # type: ignore[arg-type]
