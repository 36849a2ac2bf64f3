"""Two codecs written apart, C++ for the driver and Python for the emulator, say the same bit for bit."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from molmoact2_edge._core import damiao
from molmoact2_emulators import damiao_codec as codec
from molmoact2_emulators.damiao_codec import CanFrame, MitCommand, Ranges
from molmoact2_emulators.slcan_adapter import SlcanAdapter, frame_of, line_of

RANGES = st.builds(
    Ranges,
    st.sampled_from([12.5, 3.1415927410125732]),
    st.sampled_from([8.0, 10.0, 30.0, 45.0]),
    st.sampled_from([5.0, 10.0, 28.0, 54.0]),
)
NUMBERS = st.floats(-1e6, 1e6)
FRAMES = st.one_of(
    st.builds(CanFrame, st.integers(0, 0x7FF), st.binary(max_size=8)),
    st.builds(CanFrame, st.integers(0, 0x1FFFFFFF), st.binary(max_size=8), st.just(True)),
    st.builds(CanFrame, st.integers(0, 0x7FF), st.just(b""), st.just(False), st.just(True)),
)


@st.composite
def nearly_frames(draw: st.DrawFn) -> bytes:
    """A frame's line without its CR, in which characters were put, taken or exchanged."""
    line = bytearray(line_of(draw(FRAMES))[:-1])
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(line)))
        # Signs, blanks and figures that some readers of numbers take and a line may not have.
        put = draw(st.sampled_from(b"0189aFg+-_ xtTrRz\xb2\x80") | st.integers(0, 255))
        line[place : place + draw(st.integers(0, 1))] = bytes([put]) if draw(st.booleans()) else b""
    return bytes(line)


def full(ranges: Ranges) -> tuple[float, float, float]:
    return (ranges.position, ranges.velocity, ranges.torque)


@given(RANGES, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_mit_frames_are_the_same(
    ranges: Ranges, position: float, velocity: float, kp: float, kd: float, torque: float
) -> None:
    ours = damiao.encode_mit(position, velocity, kp, kd, torque, full(ranges))
    assert ours == codec.pack_mit(MitCommand(position, velocity, kp, kd, torque), ranges)


@given(st.binary(min_size=8, max_size=8), RANGES)
def test_mit_frames_are_read_the_same(data: bytes, ranges: Ranges) -> None:
    ours = damiao.decode_mit(data, full(ranges))
    if data[:7] == codec.COMMAND_PREFIX and data[7] in range(0xFB, 0xFF):
        assert ours is None
        return
    theirs = codec.unpack_mit(data, ranges)
    assert ours is not None
    assert ours == pytest.approx(
        (theirs.position, theirs.velocity, theirs.kp, theirs.kd, theirs.torque), abs=1e-12
    )


@given(
    RANGES,
    st.integers(1, 15),
    st.sampled_from([0, 1, 8, 9, 10, 11, 12, 13, 14]),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)),
    st.tuples(st.integers(0, 255), st.integers(0, 255)),
)
def test_a_motor_s_answer_says_what_it_measured(
    ranges: Ranges,
    motor: int,
    status: int,
    shares: tuple[float, float, float],
    celsius: tuple[int, int],
) -> None:
    values = [share * scale for share, scale in zip(shares, full(ranges), strict=True)]
    data = codec.pack_feedback(motor, status, *values, *celsius, ranges)
    feedback = damiao.decode_feedback(data, full(ranges))
    assert feedback is not None
    assert feedback[:2] == (motor, status)
    for got, wanted, scale, bits in zip(feedback[2:5], values, full(ranges), (16, 12, 12), strict=True):
        assert abs(got - wanted) <= 2 * scale / ((1 << bits) - 1) * (1 + 1e-9)
    assert feedback[5:] == celsius


@given(st.binary(max_size=8))
def test_any_bytes_are_a_feedback_or_none(data: bytes) -> None:
    feedback = damiao.decode_feedback(data, (12.5, 30.0, 10.0))
    known = len(data) == 8 and (data[0] >> 4 <= 1 or 8 <= data[0] >> 4 <= 14)
    assert (feedback is not None) == known
    if feedback is not None:
        assert all(math.isfinite(number) for number in feedback)
        assert abs(feedback[2]) <= 12.5 + 1e-9


@given(st.floats(width=32, allow_nan=False))
def test_a_register_s_float_survives(number: float) -> None:
    assert codec.float_of(codec.raw_float(number)) == number


@given(FRAMES)
def test_a_frame_has_one_line_and_comes_back_from_it(frame: CanFrame) -> None:
    line = line_of(frame)
    assert damiao.encode_slcan(frame.id, frame.data, frame.extended, frame.remote) == line
    assert frame_of(line[:-1].decode()) == frame
    assert damiao.SlcanParser().feed(line) == [("frame", frame.id, frame.data, frame.extended, frame.remote)]


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 20), max_size=30))
def test_a_stream_is_the_same_however_it_is_cut(frames: list[CanFrame], cuts: list[int]) -> None:
    stream = b"".join(line_of(frame) for frame in frames)
    parser, adapter, events, taken = damiao.SlcanParser(), SlcanAdapter(), [], []
    adapter.take(b"S8\rO\r")
    while stream:
        size = cuts.pop() if cuts else len(stream)
        piece, stream = stream[:size], stream[size:]
        events += parser.feed(piece)
        taken += adapter.take(piece)[0]
    assert taken == frames
    assert events == [("frame", f.id, f.data, f.extended, f.remote) for f in frames]


@given(st.binary(max_size=300), FRAMES)
def test_after_any_garbage_the_next_line_is_heard(garbage: bytes, frame: CanFrame) -> None:
    parser, adapter = damiao.SlcanParser(), SlcanAdapter()
    adapter.take(b"S8\rO\r")
    parser.feed(garbage + b"\r")
    adapter.take(garbage + b"\rS8\rO\r")
    assert parser.feed(line_of(frame))[-1][0] == "frame"
    assert adapter.take(line_of(frame))[0] == [frame]


@given(st.binary(max_size=60) | nearly_frames())
@example(b"t00\xb20")
@example(b"t001\xb2")
@example(b"t0x1100")
@example(b"t+01100")
@example(b"t0_1100")
def test_both_ends_agree_what_a_frame_is(text: bytes) -> None:
    line = text.replace(b"\r", b"").replace(b"\a", b"")
    # What only the host's end takes: an acknowledgement in front, and four digits of time behind.
    bare = line.decode("latin-1")
    bare = bare[1:] if bare[:1] in ("z", "Z") else bare
    theirs = frame_of(bare)
    if theirs is None and re.fullmatch(r".*[0-9A-Fa-f]{4}", bare, re.DOTALL):
        theirs = frame_of(bare[:-4])
    ours = [event[1:] for event in damiao.SlcanParser().feed(line + b"\r") if event[0] == "frame"]
    if theirs is None:
        assert ours == []
        return
    ((number, data, extended, remote),) = ours
    assert (number, extended, remote) == (theirs.id, theirs.extended, theirs.remote)
    assert remote or data == theirs.data


def test_numbers_that_are_none_are_refused() -> None:
    for number in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="finite"):
            damiao.encode_mit(0.0, 0.0, number, 0.0, 0.0, (12.5, 30.0, 10.0))
    with pytest.raises(ValueError, match="above 0"):
        damiao.encode_mit(0.0, 0.0, 0.0, 0.0, 0.0, (12.5, 0.0, 10.0))
    with pytest.raises(ValueError, match="too large"):
        damiao.encode_slcan(0x800, b"")
    with pytest.raises(ValueError, match="at most 8"):
        damiao.encode_slcan(1, bytes(9))
