"""One YAM arm or two, each seven Damiao motors on a CAN bus of its own.

The bus belongs to C++: the loop's thread while a loop runs, else a thread of the port that repeats the last target
before the motors' own timeout. Python asks, sets modes and reads registers; it never has to be in time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from molmoact2_drivers.protocol import (
    Joint,
    JointUnit,
    LifeCycle,
    Measurement,
    RobotCapabilities,
    RobotState,
    StopPolicy,
)
from molmoact2_drivers.yam.discovery import MotorIdentity, open_bus
from molmoact2_drivers.yam.registers import CONTROL_MODE, MIT_MODE, TIMEOUT
from molmoact2_drivers.yam.settings import FEEDBACK_OFFSET, JOINTS, ArmSettings, MotorSettings, YamSettings
from molmoact2_edge.errors import InputError, RobotError

if TYPE_CHECKING:
    from molmoact2_edge._core.damiao import CanBus, DamiaoJoint, DamiaoPort, DamiaoReport, MotorReport

RANGES = (
    (-2.618, 3.142),
    (0.0, 3.665),
    (0.0, 3.142),
    (-1.693, 1.571),
    (-1.571, 1.571),
    (-2.094, 2.094),
)
"""rad: what the joints of an arm can do."""

_DEGREES = 180.0 / math.pi
_ENABLED = 1
_FIRST_ERROR = 8
_LINK_LOST = 0xD
_KEEP_PERIOD_S = 0.02
_SILENCE_S = 0.1  # after the motors' own timeout
_FEEDBACK_S = 1.0
_REOPEN_S = 2.0
_LOOK_S = 0.005
_WRITE_S = 0.1
_FRAMES_PER_ARM = 2 * len(JOINTS)
_FRAME_S = 130e-6  # of eight bytes at 1 Mbit/s, stuffed
_LINE_BYTES = 22  # of such a frame as slcan writes it
_GRIPPER_SLACK = 10.0  # percent beyond closed and open that a gripper's fingers give way
_MAX_COMMAND_RATE_HZ = 500.0


class YamRobot:
    """A `molmoact2_drivers.Robot`."""

    def __init__(self, settings: YamSettings, loop_rate_hz: float) -> None:
        """`loop_rate_hz` is how often a loop will exchange with the motors: three quarters of its period are theirs."""
        self._settings = settings
        self._exchange_timeout_s = min(0.75 / loop_rate_hz, 0.02)
        self._life_cycle = LifeCycle.DISCONNECTED
        self._fault: str | None = None
        self._port: DamiaoPort | None = None
        self._motors = [(arm, motor) for arm in settings.arms for motor in settings.motors]
        self._names = tuple(f"{arm.prefix}{joint}" for arm in settings.arms for joint in JOINTS)
        self.identities: dict[str, MotorIdentity] = {}
        """Who answered when it was connected, by joint."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"yam on {' and '.join(arm.port or '(no port)' for arm in self._settings.arms)}"

    @property
    def capabilities(self) -> RobotCapabilities:
        """What the arms can do; complete from the beginning."""
        serial_s = 0.0
        if any(arm.is_slcan for arm in self._settings.arms):
            serial_s = len(JOINTS) * _LINE_BYTES * 10.0 / self._settings.baud
        return RobotCapabilities(
            tuple(joint for arm in self._settings.arms for joint in self._joints(arm)),
            command_rate_max_hz=min(_MAX_COMMAND_RATE_HZ, 1.0 / (_FRAMES_PER_ARM * _FRAME_S + serial_s)),
            measures=frozenset({Measurement.VELOCITY, Measurement.TEMPERATURE}),
            stop_policies=frozenset(StopPolicy),
        )

    @property
    def life_cycle(self) -> LifeCycle:
        """Its state now."""
        self._look()
        return self._life_cycle

    @property
    def fault(self) -> str | None:
        """Why it is in ERROR; None otherwise."""
        self._look()
        return self._fault

    def connect(self) -> None:
        """Asks every motor who it is, then opens the buses for the loop; nothing is written. DISCONNECTED -> CONNECTED.

        Raises:
            InputError: an arm has no port.
            RobotError: a bus does not open, a motor does not answer, or its scales are not those of the robot file.
        """
        self._require(LifeCycle.DISCONNECTED)
        self.identities = self._identify()
        self._port = port = self._make_port()
        error = port.open()
        if error is not None:
            self._port = None
            raise RobotError(f"{self.name}: {error}")
        silent = self._wait_for(
            lambda report: [not motor["time_ns"] for motor in report["motors"]], _FEEDBACK_S
        )
        if silent:
            port.close()
            self._port = None
            raise RobotError(
                f"{self.name}: no feedback from {self._list(silent)}; check their power and the wiring"
            )
        self._life_cycle, self._fault = LifeCycle.CONNECTED, None

    def configure(self) -> None:
        """Clears errors of a run before, sets and reads back timeout and control mode. -> CONFIGURED.

        Raises:
            RobotError: a motor does not take a setting, has an error that stays, or the gripper's ends are wrong.
        """
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED)
        port = self._open_port()
        for index, motor in enumerate(port.report()["motors"]):
            # A session that ended leaves its motors with link_lost: they braked by themselves, as they should.
            if motor["status"] >= _FIRST_ERROR and not port.command(index, "clear_error"):
                raise RobotError(
                    self._about(index, f"has an error that stays: {self._status_text(motor['status'])}")
                )
            self._set_register(index, CONTROL_MODE.address, CONTROL_MODE.name, MIT_MODE)
            self._set_register(index, TIMEOUT.address, TIMEOUT.name, self._settings.timeout_counts)
        port.clear_faults()
        self._check_grippers(port.report())
        self._life_cycle = LifeCycle.CONFIGURED

    def activate(self) -> None:
        """Holds the measured pose, with a stiffness that grows from nothing, and follows targets. CONFIGURED -> ACTIVE.

        Raises:
            RobotError: a motor does not answer, or does not switch on; then all are switched off.
        """
        self._require(LifeCycle.CONFIGURED)
        self._drive("follow")
        self._life_cycle = LifeCycle.ACTIVE

    def port(self) -> DamiaoPort:
        """What the control thread reads and writes. CONFIGURED or ACTIVE."""
        self._require(LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        return self._open_port()

    def read_state(self) -> RobotState:
        """The newest feedback of all motors, with the time of the oldest among them. CONNECTED, CONFIGURED, ACTIVE."""
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        motors = self._open_port().report()["motors"]
        return RobotState(
            positions=np.array([motor["position"] for motor in motors]),
            time_ns=min(motor["time_ns"] for motor in motors),
            velocities=np.array([motor["velocity"] for motor in motors]),
            temperatures=np.array([max(motor["driver_celsius"], motor["rotor_celsius"]) for motor in motors]),
        )

    def write_targets(self, positions: npt.ArrayLike) -> None:
        """Sends joint targets once, unfiltered: (n,) finite. ACTIVE."""
        self._require(LifeCycle.ACTIVE)
        wanted = np.array(positions, dtype=np.float64)
        if wanted.shape != (len(self._names),) or not np.isfinite(wanted).all():
            raise InputError(f"targets are {len(self._names)} finite joint positions; got {positions!r}")
        deadline = time.monotonic() + _WRITE_S
        # The wire may be in use for a moment: the keeper's exchange, which no loop keeps away while none runs.
        while not self._open_port().write(wanted):
            self._look()
            if self._fault is not None or time.monotonic() >= deadline:
                raise RobotError(f"{self.name} did not take the targets: {self._fault or 'the bus is gone'}")
            time.sleep(_LOOK_S)

    def stop(self, policy: StopPolicy) -> None:
        """Ends motion. ACTIVE -> CONFIGURED; in CONFIGURED it changes what the motors do; in ERROR as far as they obey.

        HOLD keeps the last target where it is near the pose, so that an arm does not sink by what its weight bends it.
        """
        self._look()
        if (
            self._life_cycle not in (LifeCycle.ACTIVE, LifeCycle.CONFIGURED, LifeCycle.ERROR)
            or self._port is None
        ):
            return
        broken = self._life_cycle is LifeCycle.ERROR
        if policy is StopPolicy.TORQUE_OFF:
            self._switch_off(must=not broken)
        elif broken:
            self._port.set_mode("hold" if policy is StopPolicy.HOLD else "damp")
        else:
            self._drive("hold" if policy is StopPolicy.HOLD else "damp")
        if not broken:
            self._life_cycle = LifeCycle.CONFIGURED

    def recover(self) -> None:
        """Clears the motors' errors and switches them on again where they stand; the arm is held. ERROR -> CONFIGURED.

        Raises:
            RobotError: a bus is still gone, a motor does not answer, or its error stays.
        """
        self._look()
        self._require(LifeCycle.ERROR)
        port = self._open_port()
        closed = self._wait_for(lambda report: [not bus["open"] for bus in report["buses"]], _REOPEN_S)
        if closed:
            raise RobotError(f"{self.name}: {self._gone(port.report()) or 'a bus is closed'}")
        port.set_mode("hold")
        for index, motor in enumerate(port.report()["motors"]):
            if motor["fault"] is None and not motor["silent"] and motor["status"] == _ENABLED:
                continue
            if not port.command(index, "clear_error") or not port.command(index, "enable"):
                status = port.report()["motors"][index]["status"]
                raise RobotError(self._about(index, f"does not come back: {self._status_text(status)}"))
        port.clear_faults()
        self._life_cycle, self._fault = LifeCycle.CONFIGURED, None

    def disconnect(self) -> None:
        """Closes the buses from any state. Motors that hold or damp then brake by themselves after their timeout."""
        port, self._port = self._port, None
        if port is not None:
            if self._life_cycle is LifeCycle.ACTIVE:
                port.set_mode("hold")
            port.close()
        self._life_cycle, self._fault = LifeCycle.DISCONNECTED, None

    def statistics(self) -> DamiaoReport:
        """Return what is known about motors and buses, counters included. CONNECTED, CONFIGURED, ACTIVE, ERROR."""
        return self._open_port().report()

    # --- connecting ---

    def _joints(self, arm: ArmSettings) -> list[Joint]:
        joints = []
        for joint, (low, high), motor in zip(JOINTS, RANGES, self._settings.motors, strict=False):
            joints.append(
                Joint(
                    f"{arm.prefix}{joint}",
                    JointUnit.DEGREES,
                    low * _DEGREES,
                    high * _DEGREES,
                    motor.vmax * _DEGREES,
                )
            )
        speed = abs(100.0 / (arm.gripper_open - arm.gripper_closed)) * self._settings.motors[-1].vmax
        joints.append(Joint(f"{arm.prefix}{JOINTS[-1]}", JointUnit.PERCENT, 0.0, 100.0, speed))
        return joints

    def _identify(self) -> dict[str, MotorIdentity]:
        identities = {}
        for arm in self._settings.arms:
            if arm.port is None:
                key = f"connection.{arm.prefix.rstrip('_')}.port" if arm.prefix else "connection.port"
                raise InputError(
                    f"{key}: not given; the path of an slcan adapter, or a CAN interface such as can0"
                )
            with open_bus(arm.port, self._settings.baud, self._settings.bitrate) as bus:
                found = {joint: bus.identify(motor.id) for joint, motor in self._expected(arm)}
            missing = [str(motor.id) for joint, motor in self._expected(arm) if found[joint] is None]
            if missing:
                raise RobotError(
                    f"{arm.port}: no answer from motor {', '.join(missing)}; check their power (24 V) and the wiring"
                )
            for joint, motor in self._expected(arm):
                identity = found[joint]
                assert identity is not None
                _check(arm, joint, motor, identity)
                identities[joint] = identity
        return identities

    def _expected(self, arm: ArmSettings) -> list[tuple[str, MotorSettings]]:
        return [
            (f"{arm.prefix}{joint}", motor)
            for joint, motor in zip(JOINTS, self._settings.motors, strict=True)
        ]

    def _make_port(self) -> DamiaoPort:
        from molmoact2_edge._core.damiao import ArmWeight, DamiaoPort

        settings, weights = self._settings, []
        if settings.gravity is not None:
            chain = settings.gravity.chain()
            weights = [
                ArmWeight(chain=chain, first_joint=index * len(JOINTS), factors=list(settings.gravity.scale))
                for index in range(len(settings.arms))
            ]
        try:
            return DamiaoPort(
                buses=[self._bus(arm) for arm in settings.arms],
                joints=[
                    _port_joint(index, arm, joint, motor)
                    for index, arm in enumerate(settings.arms)
                    for joint, motor in zip(JOINTS, settings.motors, strict=True)
                ],
                weights=weights,
                exchange_timeout_s=self._exchange_timeout_s,
                ramp_s=settings.ramp_s,
                silence_s=settings.timeout_s + _SILENCE_S,
                keep_period_s=_KEEP_PERIOD_S,
            )
        except ValueError as error:
            raise InputError(f"{self.name}: {error}") from error

    def _bus(self, arm: ArmSettings) -> CanBus:
        from molmoact2_edge._core.damiao import CanBus

        assert arm.port is not None
        if arm.is_slcan:
            return CanBus.slcan(arm.port, self._settings.baud, self._settings.bitrate)
        return CanBus.socketcan(arm.port)

    def _set_register(self, index: int, address: int, name: str, wanted: int) -> None:
        port = self._open_port()
        if port.read_register(index, address) == wanted:
            return
        if not port.write_register(index, address, wanted) or port.read_register(index, address) != wanted:
            raise RobotError(self._about(index, f"did not take {wanted} for register {address} ({name})"))

    def _check_grippers(self, report: DamiaoReport) -> None:
        for index, motor in enumerate(report["motors"]):
            arm, _ = self._motors[index]
            position = motor["position"]
            if (
                self._names[index].endswith(JOINTS[-1])
                and not -_GRIPPER_SLACK <= position <= 100.0 + _GRIPPER_SLACK
            ):
                angle = arm.gripper_closed + position / 100.0 * (arm.gripper_open - arm.gripper_closed)
                raise RobotError(
                    self._about(
                        index,
                        f"stands at {angle:.2f} rad, outside closed ({arm.gripper_closed:g}) and open "
                        f"({arm.gripper_open:g}); move it to both ends by hand, read the angles here, and write them "
                        "to connection.gripper",
                    )
                )

    # --- driving ---

    def _drive(self, mode: str) -> None:
        """Switch on what is off, and enter a mode; on failure everything is switched off."""
        port = self._open_port()
        silent = self._wait_for(self._old, _FEEDBACK_S)
        if silent:
            raise RobotError(
                f"{self.name}: no feedback from {self._list(silent)}; check their power and the wiring"
            )
        for index, motor in enumerate(port.report()["motors"]):
            if motor["status"] == _ENABLED:
                continue
            if not port.command(index, "enable"):
                status = port.report()["motors"][index]["status"]
                self._switch_off(must=False)
                raise RobotError(self._about(index, f"does not switch on: {self._status_text(status)}"))
        if not port.set_mode(mode):
            self._switch_off(must=False)
            raise RobotError(f"{self.name}: not every motor's pose is known")

    def _switch_off(self, must: bool) -> None:
        port = self._open_port()
        port.set_mode("listen")
        stayed = [index for index in range(len(self._names)) if not port.command(index, "disable")]
        if stayed and must:
            raise RobotError(
                f"{self.name}: {self._list(stayed)} did not say that they are off; without commands they brake by "
                f"themselves after {self._settings.timeout_s:g} s"
            )

    def _old(self, report: DamiaoReport) -> list[bool]:
        limit_ns = time.monotonic_ns() - round(self._settings.timeout_s * 1e9)
        return [motor["time_ns"] < limit_ns for motor in report["motors"]]

    # --- judging ---

    def _look(self) -> None:
        """Take in what the port has latched since."""
        if self._port is None or self._life_cycle not in (LifeCycle.CONFIGURED, LifeCycle.ACTIVE):
            return
        report = self._port.report()
        faulted = [index for index, motor in enumerate(report["motors"]) if motor["fault"] is not None]
        silent = [index for index, motor in enumerate(report["motors"]) if motor["silent"]]
        if not faulted and not silent:
            return
        gone = self._gone(report)
        if gone is not None:
            fault = f"{gone}; its motors brake by themselves"
        elif faulted:
            fault = self._fault_of(faulted[0], report["motors"][faulted[0]])
            if len(faulted) > 1:
                fault += f"; so did {self._list(faulted[1:])}"
        else:
            fault = f"no feedback from {self._list(silent)}: they brake by themselves{self._health(report)}"
        self._life_cycle = LifeCycle.ERROR
        self._fault = f"{fault}; mend the cause and recover, the arm is then held where it is"

    def _fault_of(self, index: int, motor: MotorReport) -> str:
        assert motor["fault"] is not None
        code = motor["fault"]
        what = "has lost its torque" if code < _FIRST_ERROR else "has switched itself off"
        if code == _LINK_LOST:
            what = "brakes by itself"
        return self._about(index, f"{what}: {self._status_text(code)} (code {code:X})")

    def _gone(self, report: DamiaoReport) -> str | None:
        for bus in report["buses"]:
            if not bus["open"]:
                return f"the bus {bus['path']} is gone ({bus['error'] or 'lost'}); plug it in again"
        return None

    @staticmethod
    def _health(report: DamiaoReport) -> str:
        bad = [f"{bus['path']} is {bus['health']}" for bus in report["buses"] if bus["health"] != "active"]
        return f" ({', '.join(bad)})" if bad else ""

    def _about(self, index: int, what: str) -> str:
        arm, motor = self._motors[index]
        return f"{self._names[index]} (motor {motor.id} on {arm.port}) {what}"

    def _list(self, indices: Sequence[int]) -> str:
        return ", ".join(self._names[index] for index in indices)

    @staticmethod
    def _status_text(status: int) -> str:
        from molmoact2_edge._core.damiao import status_text

        return status_text(status)

    def _wait_for(self, bad: Callable[[DamiaoReport], list[bool]], timeout_s: float) -> list[int]:
        """Wait until nothing is bad; returns the indices of what still is after the timeout."""
        port = self._open_port()
        deadline = time.monotonic() + timeout_s
        while True:
            left = [index for index, is_bad in enumerate(bad(port.report())) if is_bad]
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(_LOOK_S)

    def _open_port(self) -> DamiaoPort:
        if self._port is None:
            raise RobotError(f"{self.name} is not connected")
        return self._port

    def _require(self, *allowed: LifeCycle) -> None:
        self._look()
        if self._life_cycle not in allowed:
            wanted = " or ".join(state.value for state in allowed)
            cause = f" ({self._fault})" if self._fault else ""
            raise RobotError(f"{self.name} is {self._life_cycle.value}{cause}, but must be {wanted} for this")


def _check(arm: ArmSettings, joint: str, motor: MotorSettings, identity: MotorIdentity) -> None:
    if identity.master_id != motor.id + FEEDBACK_OFFSET:
        raise RobotError(
            f"{joint} (motor {motor.id} on {arm.port}) answers under {identity.master_id:#x}, expected "
            f"{motor.id + FEEDBACK_OFFSET:#x}: set its register 7 (MST_ID)"
        )
    for name, address, expected, found in zip(
        ("PMAX", "VMAX", "TMAX"), (21, 22, 23), motor.ranges, identity.ranges, strict=True
    ):
        # Registers hold float32.
        if not math.isclose(expected, found, rel_tol=1e-5):
            raise RobotError(
                f"{joint} (motor {motor.id} on {arm.port}): its {name} (register {address}) is {found:g}, the robot "
                f"file says {expected:g}; with a wrong scale every target and every reading is wrong. Correct "
                f"connection.motors if the motor is the right one"
            )


def _port_joint(bus: int, arm: ArmSettings, joint: str, motor: MotorSettings) -> DamiaoJoint:
    from molmoact2_edge._core.damiao import DamiaoJoint

    scale, offset = _DEGREES, 0.0
    if joint == JOINTS[-1]:
        scale = 100.0 / (arm.gripper_open - arm.gripper_closed)
        offset = -arm.gripper_closed * scale
    return DamiaoJoint(
        bus=bus,
        motor_id=motor.id,
        feedback_id=motor.id + FEEDBACK_OFFSET,
        ranges=motor.ranges,
        kp=motor.kp,
        kd=motor.kd,
        scale=scale,
        offset=offset,
    )
