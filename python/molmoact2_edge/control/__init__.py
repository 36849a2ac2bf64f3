"""The control loop in C++ and its parts: chunks are spliced, every command passes one gate, a thread keeps time.

Arrays go in and come out as numpy; positions are in the robot's own units (degrees and 0..100 for the SO-101).
"""

from __future__ import annotations

from molmoact2_edge._core.control import LoopbackPort, MailboxPort, Port, monotonic_ns
from molmoact2_edge.control.chunks import ChunkBuffer, ChunkInfo
from molmoact2_edge.control.gate import GateResult, SafetyGate
from molmoact2_edge.control.limits import JointLimits
from molmoact2_edge.control.loop import (
    ControlLoop,
    Observation,
    SchedulingWarning,
    Telemetry,
    TelemetryColumns,
    TickRecord,
)
from molmoact2_edge.control.states import GateState, Reason
from molmoact2_edge.control.stops import StopMonitor
from molmoact2_edge.control.watchdogs import MotorLevels, Watchdogs

__all__ = [
    "ChunkBuffer",
    "ChunkInfo",
    "ControlLoop",
    "GateResult",
    "GateState",
    "JointLimits",
    "LoopbackPort",
    "MailboxPort",
    "MotorLevels",
    "Observation",
    "Port",
    "Reason",
    "SafetyGate",
    "SchedulingWarning",
    "StopMonitor",
    "Telemetry",
    "TelemetryColumns",
    "TickRecord",
    "Watchdogs",
    "monotonic_ns",
]
