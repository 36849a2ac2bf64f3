"""The codec through its bindings: what is encoded comes out again, whatever lies around it, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_edge._core import feetech

_servos = st.integers(0, 253)
_errors = st.integers(0, 255)
_data = st.binary(min_size=0, max_size=20)
_pieces = st.integers(1, 40)


def _feed(parser: feetech.StatusParser, stream: bytes, piece: int) -> list[tuple[int, int, bytes]]:
    return [packet for at in range(0, len(stream), piece) for packet in parser.feed(stream[at : at + piece])]


def _status(servo: int, error: int, data: bytes) -> bytes:
    return feetech.instruction_packet(servo, error, data)


@given(_servos, st.integers(0, 255), st.binary(max_size=253))
def test_a_packet_is_laid_out_as_the_protocol_says(servo: int, instruction: int, parameters: bytes) -> None:
    packet = feetech.instruction_packet(servo, instruction, parameters)
    body = bytes([servo, len(parameters) + 2, instruction]) + parameters
    assert packet == b"\xff\xff" + body + bytes([~sum(body) & 0xFF])


@given(st.lists(st.tuples(_servos, _errors), max_size=8), st.integers(0, 15), _pieces, st.data())
def test_answers_come_out_in_order_whatever_their_pieces(
    heads: list[tuple[int, int]], size: int, piece: int, data: st.DataObject
) -> None:
    packets = [(servo, error, data.draw(st.binary(min_size=size, max_size=size))) for servo, error in heads]
    stream = b"".join(_status(*packet) for packet in packets)
    parser = feetech.StatusParser(size)
    assert _feed(parser, stream, piece) == packets
    assert parser.counts == {"checksum_errors": 0, "wrong_lengths": 0, "garbage": 0}


@given(st.binary(max_size=200), _servos, _errors, _data, _pieces)
def test_garbage_before_an_answer_does_not_hide_it(
    garbage: bytes, servo: int, error: int, data: bytes, piece: int
) -> None:
    # Zeros end whatever the garbage has begun.
    stream = garbage + bytes(len(data) + 6) + _status(servo, error, data)
    parser = feetech.StatusParser(len(data))
    assert _feed(parser, stream, piece)[-1] == (servo, error, data)


@given(_servos, _errors, _data, st.data())
def test_one_garbled_byte_is_never_an_answer(
    servo: int, error: int, data: bytes, draw: st.DataObject
) -> None:
    packet = bytearray(_status(servo, error, data))
    place = draw.draw(st.integers(0, len(packet) - 1))
    packet[place] ^= draw.draw(st.integers(1, 255))
    parser = feetech.StatusParser(len(data))
    assert parser.feed(bytes(packet)) == []


@given(_servos, st.integers(0, 255), st.integers(1, 15), _errors, _pieces, st.data())
def test_an_echo_is_no_answer(
    servo: int, address: int, size: int, error: int, piece: int, draw: st.DataObject
) -> None:
    data = draw.draw(st.binary(min_size=size, max_size=size))
    request = feetech.read_packet(servo, address, size)
    parser = feetech.StatusParser(size, request)
    assert _feed(parser, request + _status(servo, error, data), piece) == [(servo, error, data)]
    assert parser.counts["garbage"] == 0


@given(st.integers(-(2**31), 2**31 - 1), st.integers(1, 15))
def test_sign_and_magnitude_come_back_or_saturate(value: int, sign_bit: int) -> None:
    most = 2**sign_bit - 1
    encoded = feetech.encode_sign_magnitude(value, sign_bit)
    assert 0 <= encoded < 2 ** (sign_bit + 1)
    assert feetech.decode_sign_magnitude(encoded, sign_bit) == max(-most, min(most, value))


@given(st.sampled_from(list(feetech.STS3215.registers.values())), st.data())
def test_registers_hold_their_range(register: feetech.Register, draw: st.DataObject) -> None:
    value = draw.draw(st.integers(register.lowest, register.highest))
    assert register.decode(register.encode(value)) == value
    for beyond in (register.lowest - 1, register.highest + 1):
        with pytest.raises(ValueError, match=register.name):
            register.encode(beyond)


def test_the_table_is_that_of_the_facts() -> None:
    registers = feetech.STS3215.registers
    assert feetech.STS3215.number == 777
    known = {
        "id": (5, 1),
        "baud_rate": (6, 1),
        "min_position_limit": (9, 2),
        "p_coefficient": (21, 1),
        "d_coefficient": (22, 1),
        "i_coefficient": (23, 1),
        "protection_current": (28, 2),
        "homing_offset": (31, 2),
        "operating_mode": (33, 1),
        "overload_torque": (36, 1),
        "torque_enable": (40, 1),
        "goal_position": (42, 2),
        "lock": (55, 1),
        "present_position": (56, 2),
        "present_current": (69, 2),
    }
    for name, place in known.items():
        assert (registers[name].address, registers[name].size) == place
    signs = {name: register.sign_bit for name, register in registers.items() if register.sign_bit}
    assert signs["homing_offset"] == 11
    assert signs["present_load"] == 10
    assert signs["present_position"] == signs["goal_position"] == 15


@pytest.mark.parametrize("size", [253, 300, 70_000])
def test_what_no_packet_holds_is_refused(size: int) -> None:
    data = bytes(size)
    with pytest.raises(ValueError, match="at most 253"):
        feetech.write_packet(1, 42, data)
