"""Rows out of ticks and frames: the right ones, none twice, and none where something is missing."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact2_drivers import Frame
from molmoact2_edge.control import TickRecord
from molmoact2_edge.telemetry.dataset.assembly import Row, RowAssembly

MS = 1_000_000
START = 5_000 * MS


def tick(time_ns: int, *, written: bool = True) -> TickRecord:
    """A tick whose pose is its time in milliseconds, and whose command is that plus a half."""
    pose = np.full(2, time_ns / MS)
    record: dict[str, Any] = {"wakeup_ns": time_ns, "written_ns": time_ns + 1 if written else 0}
    return cast(TickRecord, record | {"measured": pose, "command": pose + 0.5})


def frame(time_ns: int) -> Frame:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = np.frombuffer(np.int64(time_ns // MS).tobytes(), np.uint8)[:3]
    return Frame(image, time_ns, time_ns // MS)


def exposed_ms(row: Row, camera: str) -> int:
    low, middle, high = (int(value) for value in row.images[camera][0, 0])
    return low + 256 * middle + 65536 * high


def assembly(fps: int = 30) -> RowAssembly:
    return RowAssembly(["front", "wrist"], fps, 50.0, 0.5)


def check(rows: list[Row], ticks: list[int], frames: dict[str, list[int]], fps: int) -> None:
    """Every row has the last tick and the newest frames of its time, found here by plain search."""
    for row in rows:
        last_tick = max(time for time in ticks if time <= row.time_ns)
        assert row.state[0] == last_tick / MS
        assert row.action[0] == last_tick / MS + 0.5
        for camera, times in frames.items():
            assert exposed_ms(row, camera) == max(time for time in times if time <= row.time_ns) // MS
        periods = (row.time_ns - rows[0].time_ns) * fps / 1e9
        assert abs(periods - round(periods)) < 1e-6
    assert all(later.time_ns > earlier.time_ns for earlier, later in itertools.pairwise(rows))


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    fps=st.sampled_from([10, 25, 30, 50]),
    camera_ms=st.sampled_from([16, 33, 50]),
    delay_ms=st.integers(0, 150),
    gap=st.booleans(),
)
def test_any_arrival_gives_the_rows_that_hindsight_gives(
    seed: int, fps: int, camera_ms: int, delay_ms: int, gap: bool
) -> None:
    rng = np.random.default_rng(seed)
    ticks = [START + k * 20 * MS + int(rng.integers(0, 3 * MS)) for k in range(100)]
    frames = {
        camera: [START + phase * MS + k * camera_ms * MS for k in range(2200 // camera_ms)]
        for camera, phase in (("front", 3), ("wrist", 11))
    }
    if gap:  # a camera that stops for longer than its frames may be old
        frames["wrist"] = [t for t in frames["wrist"] if not START + 600 * MS < t < START + 1500 * MS]
    arrivals: list[tuple[int, str, int]] = [(time, "tick", time) for time in ticks]
    arrivals += [
        (time + int(rng.integers(0, delay_ms + 1)) * MS, camera, time)
        for camera, times in frames.items()
        for time in times
    ]
    # A camera's frames arrive in their order.
    order = sorted(arrivals)
    arrived: dict[str, int] = {}
    taken = assembly(fps)
    rows: list[Row] = []
    for _, kind, time in order:
        if kind == "tick":
            taken.add_tick(tick(time))
        elif time > arrived.get(kind, 0):
            arrived[kind] = time
            taken.add_frame(kind, frame(time))
        else:
            frames[kind].remove(time)
        rows += taken.rows()
    rows += taken.rows(final=True)
    check(rows, ticks, frames, fps)
    begin = rows[0].time_ns
    due = 1 + int((ticks[-1] - begin) * fps / 1e9 + 1e-9)
    assert len(rows) + sum(taken.dropped.values()) == due
    if not gap:
        assert taken.dropped["tick"] == 0
    else:
        assert taken.dropped["camera"] >= 0.3 * fps


def test_a_row_waits_until_nothing_can_change_it() -> None:
    taken = assembly(10)
    taken.add_frame("front", frame(START))
    taken.add_frame("wrist", frame(START))
    taken.add_tick(tick(START + 10 * MS))
    assert list(taken.rows()) == []  # a newer frame from before this tick may be on its way
    taken.add_frame("front", frame(START + 33 * MS))
    taken.add_tick(tick(START + 40 * MS))
    assert list(taken.rows()) == []
    taken.add_frame("wrist", frame(START + 33 * MS))
    assert [row.time_ns for row in taken.rows()] == [START + 10 * MS]
    assert list(taken.rows()) == []


def test_no_row_begins_before_every_camera_has_seen_the_scene_and_a_command_was_written() -> None:
    taken = assembly(10)
    taken.add_tick(tick(START, written=False))
    taken.add_frame("front", frame(START))
    taken.add_tick(tick(START + 20 * MS))
    assert list(taken.rows(final=True)) == []
    taken.add_frame("wrist", frame(START + 30 * MS))
    for k in range(2, 8):
        taken.add_tick(tick(START + 20 * k * MS))
    rows = list(taken.rows(final=True))
    assert [row.time_ns for row in rows] == [START + 40 * MS, START + 140 * MS]


def test_a_loop_that_was_away_leaves_a_gap_that_is_counted() -> None:
    taken = assembly(10)
    rows: list[Row] = []
    for time in [k * 20 for k in range(20)] + [1000 + k * 20 for k in range(20)]:
        for camera in ("front", "wrist"):
            taken.add_frame(camera, frame(START + time * MS))
        taken.add_tick(tick(START + time * MS))
        rows += taken.rows()
    assert [(row.time_ns - START) // MS for row in rows] == [0, 100, 200, 300, 400, 1000, 1100, 1200, 1300]
    assert sum(taken.dropped.values()) == 5
