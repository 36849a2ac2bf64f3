"""The file of a black box: JSON lines, each with its own checksum, the last one with that of all of them.

Every line is one object with ``crc`` first, the CRC-32 of the rest of the line as 8 hexadecimal digits, and one more
key that says what the line is::

    {"crc":"9f0c2a11","header":{"format":"molmoact2-edge black box","version":1,"tick_columns":[...], ...}}
    {"crc":"...","machine":{...}}  one line each: machine, build, robot (its configuration), statistics (of the loop)
    {"crc":"...","event":{...}}    a change of the gate's state or reason; from the beginning of the run
    {"crc":"...","call":{...}}     a call of the policy
    {"crc":"...","chunk":{...}}    a chunk with all its actions
    {"crc":"...","tick":[...]}     one tick of the loop; values in the order of the header's tick_columns
    {"crc":"...","end":{"lines":N,"sha256":"..."}}   of everything before this line

Times are nanoseconds on the monotonic clock; the header has that clock and the wall clock at one moment. Numbers that
JSON does not know are the strings "nan", "inf" and "-inf". Nothing is executed on reading, and what a damaged file
still has is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from molmoact2_edge.control import TickRecord
from molmoact2_edge.errors import InputError

FORMAT = "molmoact2-edge black box"
VERSION = 1
TICK_COLUMNS = tuple(TickRecord.__annotations__)
"""All that the loop tells of a tick, under its names; poses are lists with a number per joint."""
POSES = ("measured", "target", "command")

_SECTIONS = ("machine", "build", "robot", "statistics")
_CRC_BEGIN = '{"crc":"'
_CRC_SIZE = len(_CRC_BEGIN) + 8 + len('",')


@dataclass
class BlackBoxContent:
    """What a black box holds, as read back; missing parts are empty."""

    header: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    robot: dict[str, Any] = field(default_factory=dict)
    """The complete configuration."""
    statistics: dict[str, Any] = field(default_factory=dict)
    """Of the loop, over all its runs."""
    events: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[dict[str, Any]] = field(default_factory=list)
    ticks: list[dict[str, Any]] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    """What could not be read, in words; empty for a file that is as it was written."""

    @property
    def joints(self) -> list[str]:
        """Names in the order of every pose."""
        return list(self.header["joints"])


def write_black_box(content: BlackBoxContent, path: Path) -> None:
    """Write ``content`` as a whole or not at all: to a file beside it, synced, then renamed.

    Raises:
        OSError: the disk does not take it.
    """
    partial = path.with_name(f".{path.name}.partial")
    digest = hashlib.sha256()
    lines = 0
    try:
        with partial.open("wb") as file:
            for line in _lines(content):
                digest.update(line)
                file.write(line)
                lines += 1
            file.write(_line("end", {"lines": lines, "sha256": digest.hexdigest()}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def read_black_box(path: Path) -> BlackBoxContent:
    """Read a black box, or what is left of it; :attr:`BlackBoxContent.damage` says what is not.

    Raises:
        InputError: it cannot be opened, is no black box, is of a newer version, or has lost its header.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the black box {path}: {error}") from error
    content = BlackBoxContent()
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    _take_header(content, lines[0] if lines else b"", path)
    columns = content.header["tick_columns"]
    ended = False
    before = len(lines[0]) + 1
    for number, line in enumerate(lines[1:], 2):
        kind, value = _parsed(line)
        if kind is None:
            content.damage.append(f"line {number} is damaged ({value})")
        elif kind == "end":
            ended = True
            if value["sha256"] != hashlib.sha256(data[:before]).hexdigest() or value["lines"] != number - 1:
                content.damage.append("the checksum of the whole does not fit: lines are missing or changed")
        else:
            _take(content, kind, value, columns)
        before += len(line) + 1
    if not ended:
        content.damage.append("the file ends early: the last part was never written, or was cut off")
    return content


def tick_row(record: Mapping[str, Any]) -> list[Any]:
    """Return a tick's record as the file has it."""
    return [_plain(record[column]) for column in TICK_COLUMNS]


def sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` last through a loss of power, where the file system can."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some file systems refuse; the file itself is synced
    finally:
        os.close(descriptor)


def _lines(content: BlackBoxContent) -> Iterable[bytes]:
    header = {"format": FORMAT, "version": VERSION, "tick_columns": list(TICK_COLUMNS), **content.header}
    yield _line("header", header)
    for section in _SECTIONS:
        yield _line(section, getattr(content, section))
    for kind, entries in (("event", content.events), ("call", content.calls), ("chunk", content.chunks)):
        for entry in entries:
            yield _line(kind, entry)
    for tick in content.ticks:
        yield _line("tick", tick_row(tick))


def _line(kind: str, value: object) -> bytes:
    rest = json.dumps({kind: _plain(value)}, separators=(",", ":"), allow_nan=False)[1:].encode()
    return _checksum(rest) + rest + b"\n"


def _checksum(rest: bytes) -> bytes:
    return f'{_CRC_BEGIN}{zlib.crc32(rest):08x}",'.encode()


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)  # states and reasons are strings with a type of their own
    if isinstance(value, (bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [_plain(entry) for entry in value]
    raise TypeError(f"a black box cannot hold {type(value).__name__}")


def _parsed(line: bytes) -> tuple[str | None, Any]:
    """Return kind and value, or None and what is wrong."""
    rest = line[_CRC_SIZE:]
    if not line.startswith(_CRC_BEGIN.encode()) or not line.endswith(b"}"):
        return None, "cut off, or not written by this program"
    if line[:_CRC_SIZE] != _checksum(rest):
        return None, "its checksum does not fit"
    try:
        ((kind, value),) = json.loads(b"{" + rest).items()
    except ValueError:
        return None, "not one JSON object"
    return kind, value


def _take_header(content: BlackBoxContent, line: bytes, path: Path) -> None:
    kind, value = _parsed(line)
    if kind is None:
        if FORMAT.encode() in line[:200]:
            raise InputError(
                f"{path}: the header of this black box is damaged, without it the rest means nothing"
            )
        raise InputError(f"{path} is not a black box: expected a first line that names {FORMAT!r}")
    if kind != "header" or value.get("format") != FORMAT:
        raise InputError(f"{path} is not a black box: its first line is {kind!r}")
    if value["version"] != VERSION:
        raise InputError(
            f"{path} is a black box of version {value['version']}, this program reads version {VERSION}; "
            "read it with the version of molmoact2-edge that wrote it, or a newer one"
        )
    content.header = value


def _take(content: BlackBoxContent, kind: str, value: Any, columns: Sequence[str]) -> None:
    if kind in _SECTIONS:
        setattr(content, kind, value)
    elif kind == "tick":
        tick = {column: _number(entry) for column, entry in zip(columns, value, strict=True)}
        for pose in POSES:
            tick[pose] = np.array([_number(entry) for entry in tick[pose]], dtype=np.float64)
        content.ticks.append(tick)
    elif kind == "chunk":
        rows = [[_number(entry) for entry in row] for row in value["actions"]]
        actions = np.array(rows, dtype=np.float64).reshape(len(rows), len(content.header["joints"]))
        content.chunks.append({**value, "actions": actions})
    elif kind in ("event", "call"):
        getattr(content, f"{kind}s").append(value)
    else:
        content.damage.append(f"a line of unknown kind {kind!r} was left out")


def _number(value: Any) -> Any:
    """Return the numbers that JSON does not know as what they are, everything else as it is."""
    return float(value) if value in ("nan", "inf", "-inf") else value
