"""Runs a client of an emulated Franka arm in a process of its own: libfranka holds Python's lock, and may hang."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import sys
import textwrap
from typing import Any

PATIENT = ("--patience", "5")
"""For an emulator whose client shares a busy computer with others: no answer is late but by a fault."""

_CLIENT_TIMEOUT_S = 60.0
_PR_CAPBSET_DROP = 24
_CAP_SYS_NICE = 23
_numbers = itertools.count(1)


def own_address() -> str:
    """An address of this computer that no other test has: the arm's ports are fixed."""
    number = os.getpid() * 16 + next(_numbers)
    return f"127.{1 + number // 65536 % 254}.{number // 256 % 256}.{1 + number % 254}"


def _without_realtime() -> None:
    # libfranka takes the highest priority where it may; on a small computer the emulator would not run beside it.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_CAPBSET_DROP, _CAP_SYS_NICE, 0, 0, 0)


def run_client(code: str, address: str) -> dict[str, Any]:
    """Run code that knows `address`; returns its dictionary `said`. The process is killed when it takes too long."""
    prelude = "import json, math, sys\naddress = sys.argv[1]\nsaid = {}\n"
    program = prelude + textwrap.dedent(code) + "\nprint(json.dumps(said), flush=True)\n"
    done = subprocess.run(
        [sys.executable, "-c", program, address],
        capture_output=True,
        text=True,
        timeout=_CLIENT_TIMEOUT_S,
        preexec_fn=_without_realtime,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
