"""What the port has latched, in words: which motor, what it did, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from molmoact2_drivers.yam.arm_joints import MotorPlace

if TYPE_CHECKING:
    from molmoact2_edge._core.damiao import DamiaoReport

FIRST_ERROR = 8
"""Statuses of motors from here on are errors."""
_LINK_LOST = 0xD


def fault_text(report: DamiaoReport, places: Sequence[MotorPlace]) -> str | None:
    """Return why the arms cannot go on; None where they can."""
    motors = report["motors"]
    faulted = [index for index, motor in enumerate(motors) if motor["fault"] is not None]
    silent = [index for index, motor in enumerate(motors) if motor["silent"]]
    if not faulted and not silent:
        return None
    gone = gone_text(report)
    if gone is not None:
        fault = f"{gone}; its motors brake by themselves"
    elif faulted:
        code = motors[faulted[0]]["fault"]
        assert code is not None
        fault = f"{places[faulted[0]]} {_did(code)}: {status_text(code)} (code {code:X})"
        if len(faulted) > 1:
            fault += f"; so did {names(places, faulted[1:])}"
    else:
        fault = f"no feedback from {names(places, silent)}: they brake by themselves{_health(report)}"
    return f"{fault}; mend the cause and recover, the arm is then held where it is"


def gone_text(report: DamiaoReport) -> str | None:
    """Return which bus is not there; None where all are."""
    for bus in report["buses"]:
        if not bus["open"]:
            return f"the bus {bus['path']} is gone ({bus['error'] or 'lost'}); plug it in again"
    return None


def names(places: Sequence[MotorPlace], indices: Sequence[int]) -> str:
    """Return joints' names for a message."""
    return ", ".join(places[index].name for index in indices)


def status_text(status: int) -> str:
    """Return what a motor's status means."""
    from molmoact2_edge._core import damiao

    return damiao.status_text(status)


def _did(code: int) -> str:
    if code == _LINK_LOST:
        return "brakes by itself"
    return "has lost its torque" if code < FIRST_ERROR else "has switched itself off"


def _health(report: DamiaoReport) -> str:
    bad = [f"{bus['path']} is {bus['health']}" for bus in report["buses"] if bus["health"] != "active"]
    return f" ({', '.join(bad)})" if bad else ""
