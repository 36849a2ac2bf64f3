"""The paced serial line: when bytes may be there is arithmetic over a test's clock; the kernel only carries them."""

from __future__ import annotations

import os
import select
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_emulators.pty_wire import LineTime, PtyWire

PATIENCE_S = 10.0


class Clock:
    """Nanoseconds that pass when somebody waits."""

    def __init__(self) -> None:
        self.now = 1_000_000_000
        self.waited: list[int] = []

    def now_ns(self) -> int:
        return self.now

    def wait_until(self, time_ns: int) -> None:
        self.waited.append(time_ns)
        self.now = max(self.now, time_ns)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wire(clock: Clock, tmp_path: Path) -> Iterator[PtyWire]:
    wire = PtyWire("arm", 1_000_000, tmp_path, clock=clock, follow_client=True)
    # What this kernel needs to hand bytes over is not what is tested here.
    wire._inward_ns = wire._outward_ns = 0
    yield wire
    wire.close()


def opened(wire: PtyWire) -> int:
    device = os.open(wire.path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(device)
    return device


def heard(wire: PtyWire) -> tuple[bytes, int]:
    data, at = wire.receive(PATIENCE_S)
    assert data
    return data, at


def read_all(device: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        assert select.select([device], [], [], PATIENCE_S)[0]
        data += os.read(device, 4096)
    return data


def test_a_byte_is_ten_bits() -> None:
    line = LineTime(1_000_000)
    assert line.duration_ns(88) == 880_000
    line.set_baud(115_200)
    assert line.duration_ns(1) == 86_806
    assert LineTime(None).duration_ns(1000) == 0


@given(
    st.sampled_from([None, 19_200, 115_200, 1_000_000]),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 10**9)), max_size=20),
)
def test_one_side_speaks_at_a_time(baud: int | None, sendings: list[tuple[int, int]]) -> None:
    line = LineTime(baud)
    free = 0
    for count, earliest in sendings:
        end = line.occupy(count, earliest)
        begin = end - line.duration_ns(count)
        assert begin == max(free, earliest)
        free = end
    assert line.free_ns == free


def test_an_answer_leaves_when_the_wire_would_have_it(wire: PtyWire, clock: Clock) -> None:
    device = opened(wire)
    begin = clock.now
    os.write(device, bytes(14))
    data, at = heard(wire)
    assert (len(data), at) == (14, begin + 140_000)
    assert wire.send(bytes(range(48)), at + 20_000) == begin + 140_000 + 20_000 + 480_000
    assert clock.now == begin + 640_000
    assert read_all(device, 48) == bytes(range(48))
    # The next one follows at once, the wire being busy until then.
    assert wire.send(b"xy", begin) == begin + 660_000
    os.close(device)


def test_what_the_kernel_needs_is_made_good(wire: PtyWire, clock: Clock) -> None:
    wire._inward_ns, wire._outward_ns = 3_000, 5_000
    device = opened(wire)
    begin = clock.now
    os.write(device, bytes(10))
    _, at = heard(wire)
    assert at == begin - 3_000 + 100_000
    assert wire.send(bytes(10), at) == at + 100_000
    assert clock.waited[-1] == at + 100_000 - 5_000
    os.close(device)


def test_the_kernel_s_own_time_is_measured_when_plugged_in(tmp_path: Path) -> None:
    wire = PtyWire("arm", 1_000_000, tmp_path)
    assert 0 < wire._inward_ns <= 100_000
    assert 0 < wire._outward_ns <= 100_000
    # Nothing of the measurement is left for a client or for us.
    device = opened(wire)
    assert wire.receive(0.0)[0] == b""
    assert not select.select([device], [], [], 0.0)[0]
    os.close(device)
    wire.close()


def test_unpaced(tmp_path: Path, clock: Clock) -> None:
    wire = PtyWire("arm", None, tmp_path, clock=clock, follow_client=True)
    device = opened(wire)
    os.write(device, bytes(100))
    begin = clock.now
    assert heard(wire)[1] == begin
    assert wire.send(bytes(100)) == begin
    os.close(device)
    wire.close()


@pytest.mark.parametrize("baud", [1_000_000, 115_200, 250_000])
def test_the_client_s_rate_is_seen_and_paces(wire: PtyWire, clock: Clock, baud: int) -> None:
    assert wire.client_baud() == 1_000_000
    # 250000 has no constant of its own: it takes the newer way to set a rate.
    with serial.Serial(str(wire.path), baud, timeout=PATIENCE_S) as port:
        assert wire.client_baud() == baud
        port.write(bytes(10))
        begin = clock.now
        assert heard(wire)[1] == begin + round(10 * 1e10 / baud)
        wire.send(b"abc")
        assert port.read(3) == b"abc"


def test_meanwhile_is_dropped(wire: PtyWire) -> None:
    device = opened(wire)
    assert wire.discard() == 0
    os.write(device, b"too early")
    dropped = 0
    while dropped < len(b"too early"):
        dropped += wire.discard()
    assert wire.receive(0.0)[0] == b""
    os.close(device)


def test_clients_may_come_and_go(wire: PtyWire) -> None:
    for word in (b"one", b"two"):
        device = opened(wire)
        os.write(device, word)
        assert heard(wire)[0] == word
        os.close(device)
        assert wire.receive(0.0)[0] == b""


def test_unplugged_and_plugged_in_again(wire: PtyWire) -> None:
    path = wire.path
    device = opened(wire)
    wire.unplug()
    wire.unplug()
    assert not wire.plugged
    assert wire.client_baud() is None
    assert wire.discard() == 0
    poll = select.poll()
    poll.register(device, select.POLLIN)
    assert poll.poll(0)[0][1] & select.POLLHUP
    with pytest.raises(OSError, match="Input/output error"):
        os.write(device, b"x")
    with pytest.raises(FileNotFoundError):
        os.open(path, os.O_RDWR | os.O_NOCTTY)
    wire.send(b"nobody")
    assert wire.receive(0.0)[0] == b""
    os.close(device)
    wire.plug()
    wire.plug()
    assert wire.path == path
    device = opened(wire)
    os.write(device, b"back")
    assert heard(wire)[0] == b"back"
    wire.send(b"again")
    assert read_all(device, 5) == b"again"
    os.close(device)


def test_nothing_is_left_behind() -> None:
    wire = PtyWire("arm", 9600)
    attributes = termios.tcgetattr(wire._slave)
    assert attributes[4:6] == [termios.B9600, termios.B9600]
    directory = wire.path.parent
    assert wire.path.is_symlink()
    wire.close()
    wire.close()
    assert not directory.exists()
