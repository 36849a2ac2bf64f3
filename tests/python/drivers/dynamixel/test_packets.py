"""The C++ codec against the emulator's own and the vendor's, over random packets and damage."""

from __future__ import annotations

import pytest
from dynamixel_sdk.protocol2_packet_handler import Protocol2PacketHandler
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_edge._core import dynamixel as core
from molmoact2_emulators import dynamixel_packet as wire

VENDOR = Protocol2PacketHandler()

# Bytes of which headers are made come often.
payloads = st.lists(
    st.sampled_from([0xFF, 0xFF, 0xFD, 0x00, 0x01, 0x55, 0xFE]) | st.integers(0, 255), max_size=200
).map(bytes)
ids = st.integers(0, 253)
instructions = st.sampled_from([0x01, 0x02, 0x03, 0x55, 0x82, 0x83, 0x8A, 0x92])


@given(payloads)
def test_all_three_agree_on_the_checksum(data: bytes) -> None:
    assert core.crc16(data) == wire.crc16(data) == wire.crc_fast(data) == VENDOR.updateCRC(0, data, len(data))


@given(ids, instructions, payloads)
def test_all_three_agree_on_the_packet(servo: int, instruction: int, parameters: bytes) -> None:
    packet = core.encode(servo, instruction, parameters)
    assert packet == wire.packet(servo, instruction, parameters)
    plain = [
        0xFF,
        0xFF,
        0xFD,
        0x00,
        servo,
        (len(parameters) + 3) & 0xFF,
        (len(parameters) + 3) >> 8,
        instruction,
    ]
    stuffed = VENDOR.addStuffing([*plain, *parameters, 0, 0])
    assert bytes(stuffed[7:-2]) == packet[7:-2]


@given(ids, instructions, payloads, st.integers(1, 40))
def test_what_was_encoded_is_found_in_pieces_of_any_size(
    servo: int, instruction: int, parameters: bytes, size: int
) -> None:
    packet = core.encode(servo, instruction, parameters)
    parser = core.PacketParser()
    found = [one for at in range(0, len(packet), size) for one in parser.feed(packet[at : at + size])]
    assert found == [(servo, instruction, parameters)]
    assert parser.damaged == 0


@given(st.lists(st.tuples(ids, instructions, payloads), min_size=1, max_size=4), st.data())
def test_a_damaged_byte_costs_its_packet_and_no_other(
    packets: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    encoded = [core.encode(*packet) for packet in packets]
    hit = data.draw(st.integers(0, len(packets) - 1))
    at = data.draw(st.integers(0, len(encoded[hit]) - 1))
    flip = data.draw(st.integers(1, 255))
    broken = bytearray(encoded[hit])
    broken[at] ^= flip
    stream = b"".join([*encoded[:hit], bytes(broken), *encoded[hit + 1 :]])
    # What follows lets a parser that believes in a false length find out.
    found = core.PacketParser().feed(stream + bytes(core.MAX_PACKET_BYTES))
    assert found == packets[:hit] + packets[hit + 1 :]


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_noise_is_survived(pieces: list[bytes]) -> None:
    parser = core.PacketParser()
    for piece in pieces:
        parser.feed(piece)
    parser.feed(bytes(core.MAX_PACKET_BYTES))
    assert parser.feed(core.encode(7, 1, b""))[-1:] == [(7, 1, b"")]


@given(payloads, payloads)
def test_the_emulators_reader_finds_what_the_encoder_makes(noise: bytes, parameters: bytes) -> None:
    reader = wire.RequestReader()
    list(reader.feed(noise + bytes(1024)))
    reader.forget()
    assert list(reader.feed(core.encode(3, 0x03, parameters))) == [wire.Request(3, 0x03, parameters)]


def test_what_is_no_packet_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1024 bytes"):
        core.encode(1, 3, bytes(1015))
    assert len(core.encode(1, 3, bytes(1014))) == 1024
    with pytest.raises(ValueError, match="id must be 0 to 255"):
        core.encode(256, 3, b"")
