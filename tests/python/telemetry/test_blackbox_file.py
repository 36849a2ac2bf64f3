"""The file of a black box: what goes in comes out, and of a damaged one what is left."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact2_edge.errors import InputError
from molmoact2_edge.telemetry.blackbox_file import (
    TICK_COLUMNS,
    BlackBoxContent,
    read_black_box,
    write_black_box,
)

JOINTS = ["shoulder_pan", "gripper"]
POSES = ("measured", "target", "command")


def tick(number: int, values: list[float]) -> dict[str, Any]:
    record: dict[str, Any] = dict.fromkeys(TICK_COLUMNS, number)
    record |= {"state": "running", "reason": "none", "rejected_chunk": "none", "followed": True}
    record |= {"action": values[0], **{pose: np.array(values) for pose in POSES}}
    return record


def content(ticks: int = 5, values: list[float] | None = None) -> BlackBoxContent:
    return BlackBoxContent(
        header={"reason": "fault: state_lost", "joints": JOINTS, "rate_hz": 50.0},
        machine={"cores": 2, "governor": None},
        build={"compiler": "x"},
        robot={"name": "so101", "loop": {"cpus": []}},
        statistics={"period": {"p50_s": 0.02}},
        events=[{"tick": 1, "state": "holding"}],
        calls=[
            {"outcome": "ValueError", "message": 'a "quoted" täxt\nin two lines', "timing": {"total": 0.1}}
        ],
        chunks=[{"number": 1, "actions": np.array([[1.5, math.nan], [math.inf, -math.inf]])}],
        ticks=[tick(number, values or [0.1, -2.0]) for number in range(1, ticks + 1)],
    )


def same_ticks(read: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(read) == len(wanted)
    for one, other in zip(read, wanted, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            np.testing.assert_array_equal(one[key], value)


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    wanted = content()
    path = tmp_path / "box.jsonl"
    write_black_box(wanted, path)
    read = read_black_box(path)
    assert read.damage == []
    for part in ("machine", "build", "robot", "statistics", "events", "calls"):
        assert getattr(read, part) == getattr(wanted, part)
    assert wanted.header.items() <= read.header.items()
    assert read.joints == JOINTS
    same_ticks(read.ticks, wanted.ticks)
    np.testing.assert_array_equal(read.chunks[0]["actions"], wanted.chunks[0]["actions"])
    assert list(tmp_path.iterdir()) == [path]


def test_every_line_is_json_for_any_reader(tmp_path: Path) -> None:
    path = tmp_path / "box.jsonl"
    write_black_box(content(), path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert lines[0]["header"]["version"] == 1
    assert lines[0]["header"]["tick_columns"] == list(TICK_COLUMNS)
    assert [next(key for key in line if key != "crc") for line in lines[-2:]] == ["tick", "end"]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(width=64), min_size=2, max_size=2))
def test_every_double_comes_back_to_the_bit(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "box.jsonl"
        write_black_box(content(1, values), path)
        (read,) = read_black_box(path).ticks
    for pose in POSES:
        np.testing.assert_array_equal(read[pose], values)
        finite = np.isfinite(values)
        assert (np.signbit(read[pose]) == np.signbit(values))[finite].all()


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_file_that_ends_anywhere_gives_the_whole_lines_or_a_clear_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "box.jsonl"
        wanted = content()
        write_black_box(wanted, path)
        whole = path.read_bytes()
        size = data.draw(st.integers(0, len(whole) - 2))  # without the last line's end it is still whole
        path.write_bytes(whole[:size])
        if size < whole.index(b"\n"):
            with pytest.raises(InputError, match="black box"):
                read_black_box(path)
            return
        read = read_black_box(path)
    assert any("ends early" in damage for damage in read.damage)
    complete = [line for line in whole[:size].split(b"\n") if line in whole.splitlines()]
    ticks = sum(b'"tick":[' in line for line in complete)
    same_ticks(read.ticks, wanted.ticks[:ticks])


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_flipped_bit_is_never_read_as_data(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "box.jsonl"
        wanted = content()
        write_black_box(wanted, path)
        damaged = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(damaged) - 2))
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(damaged)
        if place < damaged.index(b"\n"):
            with pytest.raises(InputError, match="black box"):
                read_black_box(path)
            return
        read = read_black_box(path)
    assert read.damage
    assert len(wanted.ticks) - 2 <= len(read.ticks) <= len(wanted.ticks)
    numbers = [record["tick"] for record in read.ticks]
    same_ticks(read.ticks, [wanted.ticks[number - 1] for number in numbers])


def test_a_line_that_went_missing_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "box.jsonl"
    write_black_box(content(), path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3] + lines[-2:]))
    read = read_black_box(path)
    assert len(read.ticks) == 4
    assert read.damage == ["the checksum of the whole does not fit: lines are missing or changed"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "is not a black box"),
        ("hello\n", "is not a black box"),
        ('{"header":{}}\n', "is not a black box"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=named):
        read_black_box(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the black box"):
        read_black_box(tmp_path / "nothing")


def test_a_newer_version_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "box.jsonl"
    newer = content()
    newer.header["version"] = 2
    write_black_box(newer, path)
    with pytest.raises(InputError, match="version 2, this program reads version 1"):
        read_black_box(path)


def test_a_disk_that_refuses_leaves_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "box.jsonl"
    path.mkdir()  # a rename onto a directory fails, after everything was written
    with pytest.raises(OSError, match="irectory"):
        write_black_box(content(), path)
    assert list(tmp_path.iterdir()) == [path]
