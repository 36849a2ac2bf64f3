"""The task and the expert that does it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact2_edge.errors import InputError
from molmoact2_edge.sim import (
    COLOURS,
    Outcome,
    TouchTask,
    World,
    expert_chunk,
    instruction,
    parse_instruction,
)


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


def run_expert(world: World, seed: int, noise: float = 0.0, chunk_steps: int = 1) -> tuple[Outcome, int]:
    """An episode at 10 Hz that executes the first `chunk_steps` of each chunk, with joint noise in degrees."""
    rng = np.random.default_rng(seed)
    world.reset(rng)
    task = TouchTask(COLOURS[seed % 3])
    frames = 0
    while not task.outcome(world).done:
        for target in expert_chunk(world, task.colour, 10)[:chunk_steps]:
            world.step(target + rng.normal(0.0, noise, 6), 0.1)
            frames += 1
    return task.outcome(world), frames


def test_expert_without_noise(world: World) -> None:
    results = [run_expert(world, seed) for seed in range(100)]
    failures = [(seed, outcome.reason) for seed, (outcome, _) in enumerate(results) if not outcome.success]
    assert failures == []
    assert 10 <= np.mean([frames for _, frames in results]) <= 16


def test_expert_with_one_degree_of_noise(world: World) -> None:
    successes = sum(run_expert(world, seed, noise=1.0)[0].success for seed in range(100))
    assert successes >= 97


def test_expert_with_open_loop_chunks(world: World) -> None:
    """The kinematic chunk is what the physics does: ten steps are executed without looking."""
    successes = sum(run_expert(world, seed, chunk_steps=10)[0].success for seed in range(30))
    assert successes == 30


@pytest.mark.parametrize("rate_hz", [10.0, 15.0, 30.0])
def test_chunk_obeys_limits_and_speed(world: World, rate_hz: float) -> None:
    for seed in range(20):
        world.reset(np.random.default_rng(seed))
        chunk = expert_chunk(world, COLOURS[seed % 3], 30, rate_hz)
        assert chunk.shape == (30, 6)
        assert (chunk >= world.limits[:, 0]).all()
        assert (chunk <= world.limits[:, 1]).all()
        moves = np.diff(np.vstack([world.positions(), chunk]), axis=0)
        assert np.abs(moves[:, :5]).max() <= 40.0 / rate_hz + 1e-9
        assert np.abs(moves[:, 5]).max() <= 60.0 / rate_hz + 1e-9


def test_rates_agree(world: World) -> None:
    """The same motion sampled at 10 and 20 Hz: both integrate in steps of 50 ms."""
    world.reset(np.random.default_rng(3))
    slow, fast = expert_chunk(world, "blue", 10, 10.0), expert_chunk(world, "blue", 20, 20.0)
    np.testing.assert_allclose(slow, fast[1::2], atol=1e-9)


def test_expert_does_not_change_the_world(world: World) -> None:
    world.reset(np.random.default_rng(3))
    before = (world.data.qpos.copy(), world.time)
    expert_chunk(world, "red", 10)
    np.testing.assert_array_equal(world.data.qpos, before[0])
    assert world.time == before[1]


def test_expert_recovers_from_anywhere(world: World) -> None:
    """Labels stay right where noise has put the arm: every start within 15 degrees ends on the block."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        world.reset(rng)
        start = world.positions() + rng.uniform(-15, 15, 6)
        start[1] = min(start[1], world.positions()[1])  # not into the table
        world.set_positions(start)
        task = TouchTask(COLOURS[seed % 3])
        while not task.outcome(world).done:
            world.step(expert_chunk(world, task.colour, 1)[0])
        assert task.outcome(world).success, (seed, task.outcome(world).reason)


def test_expert_holds_after_the_touch(world: World) -> None:
    run_expert(world, 5)
    chunk = expert_chunk(world, COLOURS[5 % 3], 10)
    np.testing.assert_allclose(chunk, np.tile(world.positions(), (10, 1)), atol=1e-6)
    for target in chunk:
        world.step(target)
    assert len(world.touches) == 1


@pytest.mark.parametrize("wanted", COLOURS)
def test_wrong_block_is_a_failure(world: World, wanted: str) -> None:
    other = COLOURS[(COLOURS.index(wanted) + 1) % 3]
    world.reset(np.random.default_rng(8))
    task = TouchTask(wanted)
    while not task.outcome(world).done:
        world.step(expert_chunk(world, other, 1)[0])
    outcome = task.outcome(world)
    assert not outcome.success
    assert f"the {other} block instead of the {wanted} one" in outcome.reason
    # Touching the right one afterwards does not mend it.
    for _ in range(40):
        world.step(expert_chunk(world, wanted, 1)[0])
    assert task.outcome(world) == outcome


def test_a_touched_block_counts_after_it_moved(world: World) -> None:
    run_expert(world, 2)
    task = TouchTask("blue")
    success = task.outcome(world)
    assert success.success
    address = int(world.model.joint("blue_block").qposadr[0])
    world.data.qpos[address] += 0.05
    world.step(world.positions())
    assert task.outcome(world) == success


def test_time_out(world: World) -> None:
    world.reset(np.random.default_rng(0))
    task = TouchTask("green", time_limit=0.5)
    start = world.positions()
    for _ in range(4):
        world.step(start)
        assert not task.outcome(world).done
    world.step(start)
    outcome = task.outcome(world)
    assert outcome.done
    assert not outcome.success
    assert "within 0.5 s" in outcome.reason


@pytest.mark.parametrize("colour", COLOURS)
@given(blanks=st.sampled_from(["", " ", "\n "]), stop=st.sampled_from(["", "."]), upper=st.booleans())
@settings(deadline=None)
def test_instructions_parse(colour: str, blanks: str, stop: str, upper: bool) -> None:
    text = instruction(colour)
    assert text == f"touch the {colour} block"
    assert parse_instruction(blanks + (text.upper() if upper else text) + stop + blanks) == colour


@pytest.mark.parametrize("text", ["", "touch the yellow block", "lift the red block", "touch the red blocks"])
def test_other_instructions_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"touch the red\|green\|blue block"):
        parse_instruction(text)


def test_unknown_colour(world: World) -> None:
    with pytest.raises(InputError, match="yellow"):
        TouchTask("yellow")
    with pytest.raises(InputError, match="yellow"):
        expert_chunk(world, "yellow", 10)


def test_block_out_of_reach(world: World) -> None:
    world.reset(np.random.default_rng(0))
    address = int(world.model.joint("red_block").qposadr[0])
    world.data.qpos[address : address + 3] = (0.6, 0.0, 0.0125)
    world.refresh_poses()
    with pytest.raises(InputError, match="out of the arm's reach"):
        expert_chunk(world, "red", 5)
