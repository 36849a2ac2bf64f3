"""The memory between the control process and the arm's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from molmoact2_drivers.franka.arm_memory import ArmMemory, ArmState


@pytest.fixture
def ends() -> Iterator[tuple[ArmMemory, ArmMemory]]:
    """The two processes' views of one memory."""
    descriptor = ArmMemory.create()
    near, far = ArmMemory(descriptor), ArmMemory(descriptor)
    yield near, far
    near.close()
    far.close()
    os.close(descriptor)


def _state(count: int) -> ArmState:
    rows = [tuple(float(count + row) for _ in range(7)) for row in range(4)]
    return ArmState(count, count, 1, 2, count, 0.5, rows[0], rows[1], rows[2], rows[3])


def test_nothing_is_there_before_the_first(ends: tuple[ArmMemory, ArmMemory]) -> None:
    near, far = ends
    assert near.read_state() is None
    assert far.read_target() is None


def test_the_newest_is_read_as_it_was_written(ends: tuple[ArmMemory, ArmMemory]) -> None:
    near, far = ends
    for count in range(1, 6):
        far.write_state(_state(count))
        assert near.read_state() == _state(count)
        near.write_target(100 + count, (0.1 * count,) * 7)
        target = far.read_target()
        assert target is not None
        assert (target.sequence, target.time_ns, target.positions) == (count, 100 + count, (0.1 * count,) * 7)


def test_a_value_that_is_caught_half_way_leaves_the_one_before_it(ends: tuple[ArmMemory, ArmMemory]) -> None:
    near, far = ends
    for count in (1, 2, 3):
        far.write_state(_state(count))
    # A writer that was killed in the middle of its fourth value, which goes where the second is.
    slot = far._states._slots[0]
    data = bytearray(far._memory[slot])
    data[8:60] = bytes(52)
    far._memory[slot] = bytes(data)
    assert near.read_state() == _state(3)


def test_a_reader_beside_a_writer_never_sees_parts_of_two_values(ends: tuple[ArmMemory, ArmMemory]) -> None:
    near, far = ends
    ended = threading.Event()

    def write() -> None:
        for count in range(1, 20_000):
            far.write_state(_state(count))
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not ended.is_set():
        state = near.read_state()
        if state is not None:
            assert state == _state(state.time_ns)
            assert state.time_ns >= seen
            seen = state.time_ns
    writer.join()
    assert seen > 0
    assert near.read_state() == _state(19_999)
