"""Emulators that run out of file descriptors: they say so once, do not spin, and take who waited once they can."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from molmoact2_emulators import accepting
from molmoact2_emulators.accepting import AcceptPause

# Each builds a server in a child with a lowered limit: `pause`, `connect(client)`, `family` and `ask`, a request to
# which every answer begins with `answer`.
JUDGE = """
from molmoact2_emulators.so101_judge import Judge
judge = Judge(None, directory / "judge")
pause, family = judge.pause, socket.AF_UNIX
def connect(client): client.connect(str(directory / "judge"))
ask, answer = b"nonsense\\n", b'{"ok": false'
"""
ARM = """
from molmoact2_emulators.fci_hand import EmulatedHand
from molmoact2_emulators.fci_robot import EmulatedArm
from molmoact2_emulators.fci_server import FAULTS, FciServer
from molmoact2_emulators.fci_wire import COMMAND_PORT, CONNECT_REQUEST, FCI_V10, HEADER
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.franka_arm import FR3
address = "127.0.77.1"
arm = FciServer(EmulatedArm(FR3, FCI_V10), EmulatedHand(None), FaultPlan(FAULTS, seed=0), address)
ended = threading.Event()
threading.Thread(target=arm.serve, args=(ended,), daemon=True).start()
pause, family = arm.pause, socket.AF_INET
def connect(client): client.connect((address, COMMAND_PORT))
connected = FCI_V10.commands.index("connect")
ask = HEADER.pack(connected, 1, HEADER.size + CONNECT_REQUEST.size) + CONNECT_REQUEST.pack(FCI_V10.number, 9)
answer = HEADER.pack(connected, 1, 0)[:8]
"""
STREAM = """
from molmoact2_emulators.camera_frames import FrameWriter
from molmoact2_emulators.camera_http import MjpegServer
writer = FrameWriter(directory / "frames", 160, 120, 30.0, name="Test", mjpg=True)
stream = MjpegServer(directory / "frames").__enter__()
pause, family = stream._server.pause, socket.AF_INET
def connect(client): client.connect(("127.0.0.1", stream._server.server_port))
ask, answer = b"GET /nothing HTTP/1.0\\r\\n\\r\\n", b"HTTP/1.0 404"
"""
SCRIPT = """
import os, resource, socket, sys, threading, time
from pathlib import Path
directory = Path(sys.argv[1])
{server}
client = socket.socket(family)
client.settimeout(20.0)
usual = resource.getrlimit(resource.RLIMIT_NOFILE)
lowest = os.dup(0)
os.close(lowest)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, usual[1]))
begin = time.monotonic()
connect(client)
while pause.failures < 3 and time.monotonic() < begin + 20.0:
    time.sleep(0.005)
failures, took = pause.failures, time.monotonic() - begin
resource.setrlimit(resource.RLIMIT_NOFILE, usual)
client.sendall(ask)
said = b""
while len(said) < len(answer):
    more = client.recv(len(answer) - len(said))
    if not more:
        break
    said += more
print(failures, took, said == answer, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("server", [JUDGE, ARM, STREAM], ids=["judge", "arm", "stream"])
def test_no_descriptor_left_is_told_once_and_waited_for(server: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(server=server), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120.0,
        check=True,
    )
    failures, took, heard = ran.stdout.split()
    assert int(failures) >= 3, ran.stderr
    # However long it took: one attempt in each pause, and not as many as a processor makes.
    assert int(failures) <= float(took) / accepting.RETRY_S + 1
    assert heard == "True"
    assert ran.stderr.count("no client can be taken") == 1
    assert "Too many open files" in ran.stderr


def test_a_client_that_has_gone_again_is_no_reason_to_wait(capsys: pytest.CaptureFixture[str]) -> None:
    pause = AcceptPause("the arm")
    for number in (errno.ECONNABORTED, errno.EAGAIN, errno.EINTR):
        pause.begin(OSError(number, "gone"))
    assert (pause.failures, pause.over) == (0, True)
    assert capsys.readouterr().err == ""


def test_a_pause_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 50.0}
    played = SimpleNamespace(
        monotonic=lambda: clock["now"], sleep=lambda seconds: clock.update(now=clock["now"] + seconds)
    )
    monkeypatch.setattr(accepting, "time", played)
    pause = AcceptPause("the arm")
    pause.begin(OSError(errno.EMFILE, "too many"))
    assert not pause.over
    pause.wait()
    assert pause.over
    assert clock["now"] == pytest.approx(50.0 + accepting.RETRY_S)
