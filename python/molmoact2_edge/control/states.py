"""What the gate is doing and why, as the compiled part names it."""

from __future__ import annotations

from enum import Enum

from molmoact2_edge._core import control as compiled


class GateState(str, Enum):
    """State of the gate; compares equal to its name."""

    IDLE = "idle"
    RUNNING = "running"
    HOLDING = "holding"
    STOPPING = "stopping"
    FAULT = "fault"

    def __str__(self) -> str:
        return self.value


class Reason(str, Enum):
    """Why a state was entered or, while running, which limit changed the target; compares equal to its name."""

    NONE = "none"
    NOT_RESET = "not_reset"
    STARTING = "starting"
    START_TOO_FAR = "start_too_far"
    START_OUTSIDE_LIMITS = "start_outside_limits"
    WAITING_FOR_CHUNK = "waiting_for_chunk"
    CHUNK_EXHAUSTED = "chunk_exhausted"
    CHUNK_LATE = "chunk_late"
    CHUNK_EMPTY = "chunk_empty"
    CHUNK_OUT_OF_ORDER = "chunk_out_of_order"
    CHUNK_FROM_FUTURE = "chunk_from_future"
    CHUNK_OF_OTHER_RUN = "chunk_of_other_run"
    TARGET_NOT_FINITE = "target_not_finite"
    MEASURED_NOT_FINITE = "measured_not_finite"
    STATE_MISSING = "state_missing"
    STATE_STALE = "state_stale"
    STATE_LOST = "state_lost"
    BUS_WRITE_FAILED = "bus_write_failed"
    ARM_NOT_FOLLOWING = "arm_not_following"
    CHUNK_STALE = "chunk_stale"
    CAMERA_STALE = "camera_stale"
    OVERRUNS_REPEATED = "overruns_repeated"
    TEMPERATURE_HIGH = "temperature_high"
    TEMPERATURE_LIMIT = "temperature_limit"
    CURRENT_HIGH = "current_high"
    CURRENT_LIMIT = "current_limit"
    JUMP = "jump"
    POSITION_LIMIT = "position_limit"
    VELOCITY_LIMIT = "velocity_limit"
    ACCELERATION_LIMIT = "acceleration_limit"
    JERK_LIMIT = "jerk_limit"
    STOP_REQUESTED = "stop_requested"
    STOP_SIGNAL = "stop_signal"
    STOP_KEY = "stop_key"
    STOP_FILE = "stop_file"
    STOP_SOCKET = "stop_socket"

    def __str__(self) -> str:
        return self.value

    @property
    def text(self) -> str:
        """One sentence for a person."""
        return compiled.REASONS[self.value]
