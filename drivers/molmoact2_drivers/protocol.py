"""What the control loop, the policy's worker and the commands may ask of a robot or a camera, whoever made it.

Units are LeRobot's: joint positions in degrees, grippers from 0 (closed) to 100 (open), joints under LeRobot's names.
A driver converts at its edge; nothing behind this protocol knows ticks, radians or register addresses.

A robot has two faces. Commands and the policy's worker use the methods below, from any one thread at a time. The
control thread is C++ and never takes Python's lock: it reads and writes the object that `port` returns.

Life cycle:

    DISCONNECTED -connect-> CONNECTED -configure-> CONFIGURED -activate-> ACTIVE -stop-> CONFIGURED
    any state -disconnect-> DISCONNECTED
    any state -fault-> ERROR -recover-> CONFIGURED

A method called in a state that it does not name raises RobotError and changes nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from molmoact2_edge._core.control import Port

Positions = npt.NDArray[np.float64]


class LifeCycle(enum.Enum):
    """Where a device is in its life; see the module's picture."""

    DISCONNECTED = "disconnected"
    """Nothing is open."""
    CONNECTED = "connected"
    """The wire is open and the device identified; it may be read, nothing was written to it."""
    CONFIGURED = "configured"
    """Settings are written and checked; motors carry no commanded torque, or what a stop policy left them."""
    ACTIVE = "active"
    """Motors follow targets."""
    ERROR = "error"
    """A fault that the driver could not mend; `fault` says which."""


class StopPolicy(enum.Enum):
    """What the motors do after a stop."""

    HOLD = "hold"
    """Keep the measured position with full torque."""
    DAMP = "damp"
    """Give way, braked: an arm sinks slowly."""
    TORQUE_OFF = "torque_off"
    """Give way freely: an unsupported arm falls."""


class Measurement(enum.Enum):
    """What a robot can measure besides positions."""

    VELOCITY = "velocity"
    CURRENT = "current"
    TEMPERATURE = "temperature"


class JointUnit(enum.Enum):
    """Unit of one joint's positions."""

    DEGREES = "degrees"
    PERCENT = "percent"
    """0 closed, 100 open."""


@dataclass(frozen=True)
class Joint:
    """A joint as the driver knows it; the safety gate may be stricter, never wider."""

    name: str
    unit: JointUnit
    lower: float
    upper: float
    velocity_max: float
    """In the joint's unit per second: what the motor can do."""


@dataclass(frozen=True)
class RobotCapabilities:
    """What a robot can do. Complete from CONFIGURED on: limits that only the device knows are read there."""

    joints: tuple[Joint, ...]
    command_rate_max_hz: float
    """Fastest sustained rate of reading a state and writing targets."""
    measures: frozenset[Measurement]
    stop_policies: frozenset[StopPolicy]

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names in the order of every position vector; with `.pos` appended they are LeRobot's features."""
        return tuple(joint.name for joint in self.joints)


@dataclass(frozen=True)
class RobotState:
    """One measurement of all joints. Arrays are (n,) float64 in the order of the capabilities' joints."""

    positions: Positions
    """Degrees; grippers 0..100."""
    time_ns: int
    """CLOCK_MONOTONIC when it was measured, not when it was delivered: a repeated old value keeps its old time."""
    velocities: Positions | None = None
    """Units of `positions` per second."""
    currents: Positions | None = None
    """Amperes."""
    temperatures: Positions | None = None
    """Degrees Celsius."""

    def age_ns(self, now_ns: int) -> int:
        """Nanoseconds from the measurement to `now_ns` (`time.monotonic_ns()`). Liveness is judged by this alone."""
        return now_ns - self.time_ns


@dataclass(frozen=True)
class Frame:
    """One image of a camera."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3) RGB; nobody writes to it any more."""
    time_ns: int
    """CLOCK_MONOTONIC of the exposure, or the closest to it that the device tells."""
    sequence: int
    """The device's counter; a gap is a dropped frame."""

    def age_ns(self, now_ns: int) -> int:
        """Nanoseconds between the exposure and `now_ns` (`time.monotonic_ns()`)."""
        return now_ns - self.time_ns


@dataclass(frozen=True)
class CameraCapabilities:
    """What a camera delivers."""

    height: int
    width: int
    rate_hz: float


@runtime_checkable
class Robot(Protocol):
    """An arm, or several that move as one. Every method raises RobotError when the device does not do what is asked."""

    @property
    def name(self) -> str:
        """For people and for error messages, e.g. "so101 on /dev/ttyACM0"."""

    @property
    def capabilities(self) -> RobotCapabilities:
        """What it can do."""

    @property
    def life_cycle(self) -> LifeCycle:
        """Its state now."""

    @property
    def fault(self) -> str | None:
        """Why it is in ERROR, with what to do; None in every other state."""

    def connect(self) -> None:
        """Opens the wire and identifies every device on it, writing nothing. DISCONNECTED -> CONNECTED."""

    def configure(self) -> None:
        """Writes and checks settings. Nothing moves. CONNECTED or CONFIGURED -> CONFIGURED."""

    def activate(self) -> None:
        """Takes the measured position as the first target, then turns torque on, so that nothing jumps.

        CONFIGURED -> ACTIVE.
        """

    def port(self) -> Port:
        """The control thread's face of this robot: `molmoact2_edge._core.control.Port`. CONFIGURED or ACTIVE.

        The same object on every call. While a control loop uses it, nobody calls `write_targets`.
        """

    def read_state(self) -> RobotState:
        """The newest measurement with its own time; never a made-up one. CONNECTED, CONFIGURED, ACTIVE."""

    def write_targets(self, positions: npt.ArrayLike) -> None:
        """Sends joint targets once, unfiltered: (n,) finite. For calibration, jogging and tests. ACTIVE.

        Raises:
            InputError: wrong shape, or not finite.
        """

    def stop(self, policy: StopPolicy) -> None:
        """Ends motion in the given way; works in ERROR as far as the wire does.

        ACTIVE -> CONFIGURED; in CONFIGURED it changes what the motors do; in other states nothing to do.

        Raises:
            RobotError: the robot does not offer this policy.
        """

    def recover(self) -> None:
        """Clears the fault where the device allows it (reflex, overload, replugged cable). ERROR -> CONFIGURED."""

    def disconnect(self) -> None:
        """Closes everything from any state and does not raise; a robot that is ACTIVE is stopped with HOLD first."""


@runtime_checkable
class Camera(Protocol):
    """A camera that keeps its newest frame. Reading never waits for the device unless asked to."""

    @property
    def name(self) -> str:
        """Its role, e.g. "front"; matched by name, never by an index."""

    @property
    def capabilities(self) -> CameraCapabilities:
        """Size and rate. Complete once connected."""

    @property
    def life_cycle(self) -> LifeCycle:
        """DISCONNECTED, ACTIVE (frames arrive) or ERROR."""

    @property
    def fault(self) -> str | None:
        """Why it is in ERROR, with what to do; None otherwise."""

    def connect(self) -> None:
        """Opens the device and waits for its first frame."""

    def latest(self) -> Frame:
        """The newest frame; the same one again when none has arrived since.

        Raises:
            RobotError: not connected, or in ERROR.
        """

    def wait_newer(self, sequence: int, timeout_s: float) -> Frame:
        """The newest frame with a higher sequence number, waiting for it if need be.

        Raises:
            RobotError: none arrived in time.
        """

    def disconnect(self) -> None:
        """Closes the device from any state and does not raise."""
