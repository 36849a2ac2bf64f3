"""The case of a known complaint: 0.7 s for the first call, 0.3 s for the others, a chunk of 30 steps at 30 Hz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import seams
from seams import RATE_HZ, Trajectory, chart, configuration, figures, follow

from molmoact2_edge import Policy
from molmoact2_edge.build import models_dir

SEEDS = (1000, 1003)


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Trajectory]]:
    """The shipped policy in both modes, its real flow with other noise in every call."""
    policy = Policy.from_pretrained(models_dir() / "so101-touch", device="cpu", dtype="float32")
    return {mode: [follow(policy, mode, seed) for seed in SEEDS] for mode in seams.MODES}


@pytest.mark.parametrize("mode", seams.MODES)
def test_no_action_is_skipped_or_repeated(runs: dict[str, list[Trajectory]], mode: str) -> None:
    for t in runs[mode]:
        assert len(t.seams) >= 2
        np.testing.assert_array_equal(t.step, np.arange(1, len(t.step) + 1))
        # After 0.7 s at a standstill the first chunk begins at its first action.
        assert t.action[0] == 0.0
        per_step = configuration(mode).chunk.rate_hz / RATE_HZ
        within = np.diff(t.chunk) == 0
        np.testing.assert_allclose(np.diff(t.action)[within], per_step, rtol=0, atol=1e-9)
        # A later chunk begins as many actions in as were executed during its call: 0.3 s, and the tick that takes it.
        assert (t.action[t.seams[1:]] <= 11 * per_step + 1e-9).all()
        assert (t.action[t.seams] > 0.0).all()


@pytest.mark.parametrize("mode", seams.MODES)
def test_no_command_jumps_beyond_the_velocity_limit(runs: dict[str, list[Trajectory]], mode: str) -> None:
    limits = configuration(mode).limits()
    for t in runs[mode]:
        assert (np.abs(np.diff(t.command, axis=0)) * RATE_HZ <= limits.velocity_max * (1 + 1e-9)).all()


def test_real_time_chunking_needs_no_gate_at_its_seams(runs: dict[str, list[Trajectory]]) -> None:
    limits = configuration("rtc").limits()
    for t in runs["rtc"]:
        assert (t.jumps() <= limits.velocity_max).all()
    assert any((t.jumps() > limits.velocity_max).any() for t in runs["async"])


def test_the_seam_of_real_time_chunking_is_far_smaller(
    runs: dict[str, list[Trajectory]], tmp_path: Path
) -> None:
    found = {mode: figures(trajectories) for mode, trajectories in runs.items()}
    for statistic in ("mean", "median", "max"):
        assert 3.0 * found["rtc"]["acceleration"][statistic] <= found["async"]["acceleration"][statistic]
    drawn = tmp_path / "seams.svg"
    drawn.write_text(chart([runs[mode] for mode in seams.MODES], joint=2))
    assert drawn.read_text().count("<polyline") == 4


def test_the_same_seed_gives_the_same_trajectory(runs: dict[str, list[Trajectory]]) -> None:
    policy = Policy.from_pretrained(models_dir() / "so101-touch", device="cpu", dtype="float32")
    again = follow(policy, "rtc", SEEDS[0])
    np.testing.assert_array_equal(again.target, runs["rtc"][0].target)
