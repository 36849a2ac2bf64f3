"""Each fault of a camera, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from molmoact2_emulators.camera_feed import CAMERA_FAULTS, CameraFeed, camera_faults
from molmoact2_emulators.camera_frames import FrameReader, FrameWriter
from molmoact2_emulators.faults import FaultPlan

PERIOD_S = 0.03125


class Bench:
    """Publishes pictures whose value is their number, one a period."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.plan = FaultPlan(CAMERA_FAULTS, seed=1, clock=lambda: self.now_s)
        self.writer = FrameWriter(folder / "frames", 8, 6, 1.0 / PERIOD_S)
        self.reader = FrameReader(folder / "frames")
        self.feed = CameraFeed(self.writer, self.plan)
        self.number = 0

    def publish(self, frames: int = 1) -> list[tuple[int, int, int]]:
        """Returns sequence number, exposure in periods and value of what a client found after each publication."""
        found = []
        for _ in range(frames):
            self.now_s += PERIOD_S
            self.number += 1
            written = self.reader.written
            self.feed.publish(np.full((6, 8, 3), self.number, np.uint8), round(self.now_s * 1e9))
            frame = self.reader.newest()
            if frame is not None and self.reader.written > written:
                periods = round(frame.time_ns * 1e-9 / PERIOD_S)
                found.append((frame.sequence, periods, int(frame.image[0, 0, 0])))
        return found

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_without_faults_every_picture_goes_through(bench: Bench) -> None:
    assert bench.publish(3) == [(0, 1, 1), (1, 2, 2), (2, 3, 3)]


def test_stall(bench: Bench) -> None:
    bench.publish(2)
    bench.plan.add("stall duration=0.07")
    assert bench.publish(2) == []
    assert bench.writer.plugged
    assert bench.publish(2) == [(2, 5, 5), (3, 6, 6)]


def test_drop_frames(bench: Bench) -> None:
    bench.publish(2)
    bench.plan.add("drop_frames probability=1 duration=0.07")
    assert bench.publish(2) == []
    assert bench.publish(1) == [(4, 5, 5)]


def test_unplug_and_replug(bench: Bench) -> None:
    bench.publish(2)
    bench.plan.add("unplug duration=0.07")
    assert bench.publish(2) == []
    assert not bench.writer.plugged
    assert bench.publish(1) == [(0, 5, 5)]
    assert bench.writer.plugged


def test_delay_keeps_the_time_of_the_exposure_and_the_order(bench: Bench) -> None:
    bench.publish(1)
    bench.plan.add("delay probability=1 seconds=0.0625 duration=0.07")
    # The second and third wait for two periods each, the fourth, which is on time, behind them.
    assert bench.publish(2) == []
    assert bench.publish(1) == [(1, 2, 2)]
    assert bench.publish(1) == [(4, 5, 5)]
    assert bench.reader.written == 5


def test_corrupt(bench: Bench) -> None:
    bench.plan.add("corrupt probability=1 duration=0.05")
    bench.publish(1)
    frame = bench.reader.newest()
    assert frame is not None
    assert frame.damaged
    bench.publish(2)
    frame = bench.reader.newest()
    assert frame is not None
    assert not frame.damaged


def test_freeze_repeats_the_picture_with_new_stamps_and_numbers(bench: Bench) -> None:
    bench.publish(2)
    bench.plan.add("freeze duration=0.07")
    assert bench.publish(3) == [(2, 3, 2), (3, 4, 2), (4, 5, 5)]


def test_probabilities_are_met(bench: Bench) -> None:
    bench.plan.add("drop_frames probability=0.25")
    came = bench.publish(200)
    lost = 200 - len(came)
    # 50 expected; five standard deviations of a coin with one side in four are 31.
    assert 19 <= lost <= 81
    assert [number for number, _, _ in came] == [value - 1 for _, _, value in came]


def test_faults_under_other_names(tmp_path: Path) -> None:
    known, names = camera_faults("front_")
    plan = FaultPlan({**known, "stall": ()}, clock=lambda: 0.0)
    writer = FrameWriter(tmp_path / "frames", 8, 6, 30.0)
    feed = CameraFeed(writer, plan, names)
    plan.add("stall")
    feed.publish(np.zeros((6, 8, 3), np.uint8), 1)
    reader = FrameReader(tmp_path / "frames")
    assert reader.written == 1
    plan.add("front_stall")
    feed.publish(np.zeros((6, 8, 3), np.uint8), 2)
    assert reader.written == 1
    reader.close()
    writer.close()
