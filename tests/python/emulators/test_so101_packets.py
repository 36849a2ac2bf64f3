"""Framing: every request is found in any stream, whatever lies between, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from molmoact2_emulators.feetech_packets import (
    BROADCAST,
    HEADER,
    PING,
    SILENCE_NS,
    WRITE,
    Request,
    RequestParser,
    packet,
    sync_read,
    sync_writes,
)

requests = st.builds(
    Request,
    st.integers(0, 254),
    st.integers(0, 255),
    st.binary(max_size=40) | st.binary(min_size=240, max_size=248),
)


def parsed(parser: RequestParser, data: bytes, now_ns: int = 0) -> list[Request]:
    return [request for request, _ in parser.feed(data, now_ns)]


def test_packets_as_published() -> None:
    # From the maker's protocol manual: ping of servo 1, write of three goals at once.
    assert packet(1, PING) == bytes.fromhex("ff ff 01 02 01 fb")
    assert packet(1, 0) == bytes.fromhex("ff ff 01 02 00 fc")
    request = sync_read(56, 8, [1, 2])
    assert request.encoded() == bytes.fromhex("ff ff fe 06 82 38 08 01 02 36")
    assert parsed(RequestParser(), bytes.fromhex("ff ff fe 02 01 fe")) == [Request(BROADCAST, PING)]


@given(st.lists(requests, max_size=6), st.data())
def test_a_stream_may_be_cut_anywhere(sent: list[Request], data: st.DataObject) -> None:
    stream = b"".join(request.encoded() for request in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parser = RequestParser()
    found: list[Request] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parsed(parser, stream[begin:end])
    assert found == sent


@given(st.binary(max_size=300), requests)
@example(b"\xff\xff\x01", Request(1, PING))
@example(b"\xff\xff\x01\xfa", Request(1, PING))
def test_after_a_silence_nothing_old_is_in_the_way(noise: bytes, request: Request) -> None:
    parser = RequestParser()
    parsed(parser, noise, now_ns=5)
    assert parsed(parser, request.encoded(), now_ns=6 + SILENCE_NS) == [request]


@given(st.binary(max_size=300), requests)
def test_without_a_silence_noise_costs_a_bounded_number_of_requests(noise: bytes, request: Request) -> None:
    parser = RequestParser()
    parsed(parser, noise)
    one = request.encoded()
    # A request that holds a header of its own can be missed at the same place each time: only a silence ends that.
    assume(HEADER not in one[1:])
    # What a false header can swallow, and once more for the false header that lies in what comes next.
    repetitions = 2 + 2 * (254 // len(one) + 1)
    assert request in parsed(parser, one * repetitions)


@given(st.lists(st.binary(max_size=20) | requests.map(Request.encoded), max_size=8).map(b"".join))
def test_what_is_found_was_there(noise: bytes) -> None:
    for request in parsed(RequestParser(), noise):
        assert request.encoded() in noise
        assert request.id != 0xFF


@given(requests, st.data())
def test_a_changed_byte_is_no_other_request(request: Request, data: st.DataObject) -> None:
    original = bytearray(request.encoded())
    at = data.draw(st.integers(0, len(original) - 1))
    changed = (
        bytes(original[:at])
        + bytes((original[at] ^ data.draw(st.integers(1, 255)),))
        + bytes(original[at + 1 :])
    )
    found = parsed(RequestParser(), changed)
    # Where the length changed, a shorter one may lie in what is left, by chance.
    assert request not in found
    if at >= 4:
        assert found == []


@given(requests, st.binary(max_size=30).filter(lambda data: b"\xff" not in data))
def test_it_says_what_follows(request: Request, rest: bytes) -> None:
    assert RequestParser().feed(request.encoded() + rest, 0) == [(request, len(rest))]
    second = Request(7, PING)
    found = RequestParser().feed(request.encoded() + second.encoded(), 0)
    assert found == [(request, len(second.encoded())), (second, 0)]


def test_extra_header_bytes_are_noise() -> None:
    one = Request(1, WRITE, b"\x28\x01")
    assert parsed(RequestParser(), b"\xff\xff\xff" + one.encoded()) == [one]
    assert parsed(RequestParser(), b"\xff" + one.encoded()) == [one]


@pytest.mark.parametrize("length", [0, 1, 251, 255])
def test_lengths_that_no_packet_has(length: int) -> None:
    parser = RequestParser()
    assert parsed(parser, bytes((0xFF, 0xFF, 1, length))) == []
    assert parsed(parser, packet(1, PING)) == [Request(1, PING)]


@given(
    st.integers(0, 255),
    st.lists(st.tuples(st.integers(0, 253), st.binary(min_size=3, max_size=3)), max_size=8),
)
def test_synchronous_writes_are_taken_apart(address: int, blocks: list[tuple[int, bytes]]) -> None:
    parameters = bytes((address, 3)) + b"".join(bytes((servo,)) + data for servo, data in blocks)
    assert list(sync_writes(parameters)) == [(servo, address, data) for servo, data in blocks]
    if blocks:
        assert list(sync_writes(parameters[:-1])) == []


@pytest.mark.parametrize("parameters", [b"", b"\x2a", b"\x2a\x00", b"\x2a\x00\x01"])
def test_synchronous_writes_of_nothing(parameters: bytes) -> None:
    assert list(sync_writes(parameters)) == []
