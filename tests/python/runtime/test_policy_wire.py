"""Messages between the two processes: whatever is sent arrives, and whatever else arrives is an error of the sender."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from molmoact2_edge.runtime.policy_wire import (
    ClosedError,
    FrameMemory,
    Message,
    WireError,
    number_table,
    receive,
    send,
)

LENGTHS = struct.Struct("<4sIQ")

numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
arrays = st.dictionaries(
    st.text(min_size=1), hnp.arrays(st.sampled_from(["<f4", "<f8", ">f8"]), shapes), max_size=4
)


def through(data: bytes) -> Message:
    """What the reader makes of ``data``, after which the stream ends."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = threading.Thread(target=lambda: (theirs.sendall(data), theirs.shutdown(socket.SHUT_WR)))
        writer.start()
        try:
            return receive(ours, 10.0)
        finally:
            ours.close()
            writer.join()


def framed(head: bytes, body: bytes = b"") -> bytes:
    return LENGTHS.pack(b"MA2p", len(head), len(body)) + head + body


def bytes_of(message: Message) -> bytes:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sent = bytearray()
        reader = threading.Thread(
            target=lambda: [sent.extend(part) for part in iter(lambda: theirs.recv(65536), b"")]
        )
        reader.start()
        send(ours, message)
        ours.shutdown(socket.SHUT_WR)
        reader.join()
    return bytes(sent)


@given(st.dictionaries(st.text().filter(lambda key: key != "arrays"), json_values, max_size=5), arrays)
@settings(deadline=None, max_examples=60)
def test_every_message_arrives_as_it_was_sent(head: dict[str, Any], sent: dict[str, Any]) -> None:
    message = through(bytes_of(Message(head, sent)))
    assert message.head == head
    assert list(message.arrays) == list(sent)
    for name, array in message.arrays.items():
        assert array.shape == sent[name].shape
        assert array.dtype == sent[name].dtype.newbyteorder("<")
        np.testing.assert_array_equal(array, sent[name])


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_an_error_of_the_sender(data: bytes) -> None:
    with pytest.raises((WireError, ClosedError)):
        through(data)


@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
@settings(deadline=None, max_examples=150)
def test_a_changed_byte_gives_a_message_or_an_error_of_the_sender(
    place: int, value: int, in_the_lengths: bool
) -> None:
    data = bytearray(bytes_of(Message({"kind": "predict", "call": 3}, {"state": np.arange(6.0)})))
    data[place % (LENGTHS.size if in_the_lengths else len(data))] = value
    try:
        message = through(bytes(data))
    except (WireError, ClosedError):
        return
    assert isinstance(message.head, dict)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (framed(b"[]"), "must be an object"),
        (framed(b"{"), "not JSON"),
        (framed(b"\xff\xfe"), "not JSON"),
        (framed(b"{}"), "does not list its arrays"),
        (framed(b'{"arrays": [["x", "<f8", [2]]]}', bytes(8)), "ends within its array 'x'"),
        (framed(b'{"arrays": []}', bytes(3)), "3 bytes more than its arrays"),
        (framed(b'{"arrays": [["x", "|O", [1]]]}', bytes(8)), "lists an array as"),
        (framed(b'{"arrays": [["x", "<f8", [-1]]]}', bytes(8)), "lists an array as"),
        (framed(b'{"arrays": [["x", "<f8", [1, 1, 1, 1, 1]]]}', bytes(8)), "lists an array as"),
        (framed(b'{"arrays": [["x", "<f8", [67108864, 67108864, 67108864]]]}', bytes(8)), "ends within"),
        (framed(b'{"arrays": [["x", "<f8", [true]]]}', bytes(8)), "lists an array as"),
        (LENGTHS.pack(b"MA2p", 1 << 21, 0), "expected a message"),
        (LENGTHS.pack(b"MA2p", 2, 1 << 30), "expected a message"),
        (LENGTHS.pack(b"GET ", 2, 0) + b"{}", r"begin with b'GET '"),
    ],
)
def test_what_is_no_message_is_named(data: bytes, said: str) -> None:
    with pytest.raises(WireError, match=said):
        through(data)


def test_a_deeply_nested_head_is_no_crash() -> None:
    with pytest.raises(WireError, match="not JSON"):
        through(framed(b"[" * 100_000))


def test_a_slow_sender_is_given_up_however_often_it_sends() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stop = threading.Event()

        def drip() -> None:
            for byte in bytes_of(Message({"kind": "x" * 500})):
                if stop.wait(0.01):
                    return
                theirs.sendall(bytes([byte]))

        writer = threading.Thread(target=drip)
        writer.start()
        with pytest.raises(TimeoutError):
            receive(ours, 0.1)
        stop.set()
        writer.join()


def test_values_that_json_does_not_know_are_not_sent() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        bytes_of(Message({"seconds": float("nan")}))


@pytest.fixture
def memory() -> Iterator[tuple[FrameMemory, FrameMemory]]:
    writer = FrameMemory.create(10_000)
    reader = FrameMemory(os.dup(writer.descriptor), writable=False)
    yield writer, reader
    reader.close()
    writer.close()


def test_images_lie_in_place(memory: tuple[FrameMemory, FrameMemory]) -> None:
    writer, reader = memory
    rng = np.random.default_rng(2)
    sent = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((20, 30, 3), (7, 11, 3), (1, 1, 3))]
    strided = [sent[0], sent[1][:, ::-1], sent[2]]
    placed = writer.write(strided)
    assert json.loads(json.dumps(placed)) == placed
    found = reader.read(placed)
    for image, expected in zip(found, strided, strict=True):
        np.testing.assert_array_equal(image, expected)
        with pytest.raises(ValueError, match="read-only"):
            image[:] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            image.flags.writeable = True
    writer.write([255 - sent[0]])
    np.testing.assert_array_equal(found[0], 255 - sent[0])  # the same memory, no copy


@pytest.mark.parametrize(
    "placed",
    [
        None,
        {},
        [3],
        [{}],
        [{"offset": -1, "shape": [1, 1, 3]}],
        [{"offset": 0, "shape": [10_000, 10_000, 3]}],
        [{"offset": 11_000, "shape": [10, 10, 3]}],
        [{"offset": 0, "shape": "abc"}],
        [{"offset": 0.5, "shape": [1, 1, 3]}],
        [{"offset": 0, "shape": [1, 1, 1]}] * 17,
    ],
)
def test_images_outside_of_the_memory_are_refused(
    memory: tuple[FrameMemory, FrameMemory], placed: object
) -> None:
    with pytest.raises(WireError):
        memory[1].read(placed)


def test_the_reader_cannot_take_the_memory_from_under_the_writer(
    memory: tuple[FrameMemory, FrameMemory],
) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memory[1].descriptor, 0)


@pytest.mark.parametrize("value", [None, [], {"a": "1"}, {"a": True}, {"a": None}])
def test_a_table_of_numbers_is_one(value: object) -> None:
    assert number_table({"a": 1, "b": 0.5}) == {"a": 1.0, "b": 0.5}
    with pytest.raises(WireError):
        number_table(value)
