"""What follower and leader of an SO-100 or SO-101 have in common: six servos on one line, and what may go wrong."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_drivers.calibration import SO_JOINTS, ArmCalibration, JointCalibration, degrees_of
from molmoact2_drivers.feetech.bus import (
    DEFAULT_BAUD,
    STS3215,
    ServoBus,
    calibration_registers,
    error_names,
)
from molmoact2_drivers.feetech.settings import GRIPPER, ServoSettings, apply_settings
from molmoact2_drivers.life_cycle import require_life_cycle
from molmoact2_drivers.protocol import (
    Joint,
    JointUnit,
    LifeCycle,
    Measurement,
    Positions,
    RobotCapabilities,
    RobotState,
    StopPolicy,
)
from molmoact2_drivers.servos import FoundServo
from molmoact2_edge._core import feetech as core
from molmoact2_edge.errors import InputError, RobotError

_RATE_MAX_HZ = 250.0  # an exchange takes 1 to 2 ms with a USB adapter
_SERVO_SPEED = 300.0  # degrees/s: an STS3215 at 7.4 V does about 50 turns a minute
_BLOCK_EVERY = 5  # of the loop's reads: temperatures and currents change slowly
_ANSWER_SLACK_S = 0.003
_MEASURE_TIMEOUT_S = 0.25
_PATIENCE_S = 5.0

READ_BUDGET_S = 0.006
"""Enough for an exchange, a lost packet and the exchange again."""

PROTECTIVE_ERRORS = frozenset({"overload", "current", "temperature", "angle"})
"""Errors with which a servo lets go by itself, or does not know where it is."""


class SoArm(ABC):
    """Six STS3215 on a line, as a `molmoact2_drivers.Robot`; what its joints may do is up to the class below.

    A cable that is pulled and put in again within five seconds is taken up again by a thread beside the loop, if every
    servo is the same and has kept its torque; otherwise, and whenever a servo lets go, the arm is in ERROR.
    """

    def __init__(
        self,
        port: str,
        calibration: ArmCalibration,
        *,
        baud: int = DEFAULT_BAUD,
        name: str = "so101",
        read_budget_s: float = READ_BUDGET_S,
    ) -> None:
        """`name` is for messages; `read_budget_s` is what one read of the loop may take with its retries.

        Raises:
            InputError: the calibration is not one of an SO arm.
        """
        if tuple(calibration) != SO_JOINTS:
            raise InputError(
                f"{calibration.path or name}: an SO arm has the joints {', '.join(SO_JOINTS)}; "
                f"the calibration has {', '.join(calibration) or 'none'}"
            )
        self.calibration = calibration
        self.bus = ServoBus(port, baud)
        self._name = name
        self._life_cycle = LifeCycle.DISCONNECTED
        self._own_fault: str | None = None
        self._calibrated = False
        self._port = core.FeetechPort(
            self.bus.core,
            servos=[joint.id for joint in calibration.values()],
            scales=[
                core.JointScale(
                    joint.range_min, joint.range_max, percent=name == GRIPPER, inverted=bool(joint.drive_mode)
                )
                for name, joint in calibration.items()
            ],
            homing_offsets=[joint.homing_offset for joint in calibration.values()],
            block_every=_BLOCK_EVERY,
            read_budget_s=read_budget_s,
            answer_slack_s=_ANSWER_SLACK_S,
        )
        self._reconnector: core.Reconnector | None = None

    # --- what differs between the two arms ---

    @abstractmethod
    def _settings(self, joint: str, calibration: JointCalibration) -> ServoSettings: ...

    @property
    @abstractmethod
    def _stop_policies(self) -> frozenset[StopPolicy]: ...

    @abstractmethod
    def activate(self) -> None:
        """CONFIGURED -> ACTIVE."""

    @abstractmethod
    def write_targets(self, positions: npt.ArrayLike) -> None:
        """Send joint targets once."""

    @abstractmethod
    def _prepare_configuration(self) -> None:
        """What is done before settings are looked at."""

    @abstractmethod
    def _clear_protection(self) -> None:
        """Make a servo's error end, or raise."""

    @abstractmethod
    def _stop(self, policy: StopPolicy) -> None:
        """Carry out a policy."""

    @abstractmethod
    def _stop_in_error(self, policy: StopPolicy) -> None:
        """Carry out what can still be."""

    @property
    @abstractmethod
    def _parting_policy(self) -> StopPolicy:
        """With what an active arm is left."""

    # --- Robot ---

    @property
    def name(self) -> str:
        """E.g. "so101 on /dev/ttyACM0"."""
        return f"{self._name} on {self.bus.port}"

    @property
    def capabilities(self) -> RobotCapabilities:
        """Joints with their calibrated ranges."""
        return RobotCapabilities(
            tuple(_joint(name, joint) for name, joint in self.calibration.items()),
            command_rate_max_hz=_RATE_MAX_HZ,
            measures=frozenset({Measurement.CURRENT, Measurement.TEMPERATURE}),
            stop_policies=self._stop_policies,
        )

    @property
    def life_cycle(self) -> LifeCycle:
        """Its state now."""
        return self._life_cycle if self.fault is None else LifeCycle.ERROR

    @property
    def fault(self) -> str | None:
        """Why it is in ERROR, with what to do; None otherwise."""
        if self._life_cycle is LifeCycle.DISCONNECTED:
            return None
        return self._own_fault or self._trouble()

    def connect(self) -> None:
        """Open the line and identify every servo. DISCONNECTED -> CONNECTED."""
        self._require(LifeCycle.DISCONNECTED)
        self.bus.open()
        try:
            self._identify()
            self._calibrated = self._holds_calibration()
        except BaseException:
            self.bus.close()
            raise
        self._port.reset()
        self._own_fault = None
        self._life_cycle = LifeCycle.CONNECTED

    def configure(self) -> None:
        """Write what differs of settings and calibration, and check it. CONNECTED or CONFIGURED -> CONFIGURED."""
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED)
        self._configure()

    def port(self) -> core.FeetechPort:
        """The control thread's face of this arm. CONFIGURED or ACTIVE."""
        self._require(LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        return self._port

    def read_state(self) -> RobotState:
        """A measurement made now. CONNECTED, CONFIGURED, ACTIVE.

        Raises:
            RobotError: a servo does not answer; or, before `configure`, the servos hold another calibration.
        """
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        if not self._calibrated:
            raise RobotError(
                f"{self.name} holds another calibration than {self.calibration.path or 'the one given'}, so its "
                "positions are not known yet: configure it first"
            )
        measured = self._port.measure(_MEASURE_TIMEOUT_S)
        if measured is None:
            raise RobotError(f"{self.name}: {self._missing()}")
        positions, time_ns, temperatures, currents, _, _ = measured
        return RobotState(positions, time_ns, currents=currents, temperatures=temperatures)

    def stop(self, policy: StopPolicy) -> None:
        """End motion in the given way. In ERROR as far as the wire does.

        Raises:
            RobotError: the arm does not offer this policy, or a servo does not obey.
        """
        if policy not in self._stop_policies:
            offered = ", ".join(sorted(offer.value for offer in self._stop_policies))
            raise RobotError(f"{self.name} cannot stop with {policy.value}; it offers {offered}")
        state = self.life_cycle
        if state in (LifeCycle.DISCONNECTED, LifeCycle.CONNECTED):
            return
        self._port.follow(False)
        if state is LifeCycle.ERROR:
            with contextlib.suppress(RobotError):
                self._stop_in_error(policy)
            return
        self._stop(policy)
        self._life_cycle = LifeCycle.CONFIGURED

    def recover(self) -> None:
        """Open the line anew and check every servo, after whatever has gone wrong. ERROR -> CONFIGURED.

        Raises:
            RobotError: the cause is still there; the arm stays in ERROR.
        """
        self._require(LifeCycle.ERROR)
        self._port.follow(False)
        self._end_reconnector()
        try:
            self.bus.close()
            self.bus.open()
            self._identify()
            self._clear_protection()
            self._port.reset()
            self._life_cycle, self._own_fault = LifeCycle.CONNECTED, None
            self._configure()
        except RobotError as error:
            self._own_fault = f"{error}"
            raise

    def disconnect(self) -> None:
        """Close the line from any state; an arm that is ACTIVE is held first, and one that is held stays so."""
        if self.life_cycle is LifeCycle.ACTIVE:
            with contextlib.suppress(RobotError):
                self.stop(self._parting_policy)
        self._port.follow(False)
        self._end_reconnector()
        self.bus.close()
        self._life_cycle, self._own_fault, self._calibrated = LifeCycle.DISCONNECTED, None, False

    # --- besides the protocol ---

    def statistics(self) -> dict[str, Any]:
        """Return what was counted: exchanges, retries, ..., reconnections, and answers and misses of each servo."""
        statistics = dict(self._port.statistics())
        joints = statistics.pop("joints")
        statistics["servos"] = {
            name: {**joint, "errors": list(error_names(joint["errors"]))}
            for name, joint in zip(self.calibration, joints, strict=True)
        }
        return statistics

    def faults(self) -> dict[str, tuple[str, ...]]:
        """Return, by joint, what its servo has reported since it was configured; joints without errors are left out."""
        joints = self._port.statistics()["joints"]
        errors = {
            name: error_names(joint["errors"]) for name, joint in zip(self.calibration, joints, strict=True)
        }
        return {name: names for name, names in errors.items() if names}

    # --- inside ---

    def _require(self, *allowed: LifeCycle) -> None:
        require_life_cycle(self.name, self.life_cycle, self.fault, *allowed)

    def _servos(self) -> list[int]:
        return [joint.id for joint in self.calibration.values()]

    def _identify(self) -> None:
        """Every servo is there, of the right model, and has the firmware of the others."""
        found: dict[str, FoundServo] = {}
        absent: list[str] = []
        for name, joint in self.calibration.items():
            servo = self.bus.identify(joint.id) or self.bus.identify(joint.id)
            if servo is None:
                absent.append(f"{name} (servo {joint.id})")
            else:
                found[name] = servo
        if not found:
            raise RobotError(
                f"{self.name}: no servo answers at {self.bus.baud} baud; switch the arm's power on, or look for servos "
                "with `molmoact2-edge scan`"
            )
        if absent:
            raise RobotError(
                f"{self.name}: {', '.join(absent)} not answering; check the cable before the first of them, and the ids"
            )
        for name, servo in found.items():
            if servo.model_number != STS3215.number:
                raise RobotError(
                    f"{self.name}: {name} (servo {servo.servo}) is a model {servo.model_number}, not an "
                    f"{STS3215.name.upper()} ({STS3215.number})"
                )
        if len({servo.firmware for servo in found.values()}) > 1:
            versions = ", ".join(f"{name} {servo.firmware}" for name, servo in found.items())
            raise RobotError(
                f"{self.name}: its servos have different firmware ({versions}), and would answer and move differently; "
                "bring all to one version with Feetech's own software"
            )

    def _holds_calibration(self) -> bool:
        registers = {joint.id: calibration_registers(joint) for joint in self.calibration.values()}
        return all(
            held == registers[servo][name]
            for name in next(iter(registers.values()))
            for servo, held in self.bus.read_many(self._servos(), name).items()
        )

    def _configure(self) -> None:
        self._prepare_configuration()
        for name, joint in self.calibration.items():
            apply_settings(self.bus, name, joint.id, self._settings(name, joint))
        self._port.reset()
        self._calibrated = True
        # Twice, because what a servo reports counts only when it says so again.
        for _ in range(2):
            if self._port.measure(_MEASURE_TIMEOUT_S) is None:
                raise RobotError(f"{self.name}: {self._missing()}")
        self._life_cycle = LifeCycle.CONFIGURED
        if self._reconnector is None:
            self._reconnector = core.Reconnector(self._port, _PATIENCE_S)
        trouble = self._trouble()
        if trouble is not None:
            raise RobotError(f"{self.name}: {trouble}")

    def _end_reconnector(self) -> None:
        if self._reconnector is not None:
            self._reconnector.end()
            self._reconnector = None

    def _trouble(self) -> str | None:
        kind, place, errors = self._port.trouble
        joint = list(self.calibration)[place]
        servo = f"{joint} (servo {self.calibration[joint].id})"
        texts: dict[str, Callable[[], str]] = {
            "unplugged": lambda: (
                f"{self.bus.port} was unplugged and did not come back within {_PATIENCE_S:g} s; plug it in and recover"
            ),
            "protection": lambda: (
                f"{servo} reports {', '.join(error_names(errors))} and has let go or will; free the arm, let the servo "
                "cool, then recover"
            ),
            "torque_lost": lambda: (
                f"{servo} was without power and has let go; bring the arm to where it may start, then recover"
            ),
            "other_servos": lambda: (
                f"what was plugged in at {self.bus.port} is another arm: {servo} differs; plug the right one "
                "in and recover"
            ),
            "servos_missing": lambda: (
                f"{self.bus.port} came back, but {servo} does not answer; check its cable and the arm's "
                "power, then recover"
            ),
        }
        return texts[kind]() if kind in texts else None

    def _missing(self) -> str:
        if not self.bus.is_open:
            return f"{self.bus.port} was unplugged"
        silent = [name for name, joint in self.calibration.items() if not self.bus.ping(joint.id)]
        if silent:
            return f"{', '.join(silent)} not answering; check the cable before the first of them, and the arm's power"
        return "its answers are garbled; check the cables, and that nothing else uses the port"


def _joint(name: str, calibration: JointCalibration) -> Joint:
    low = degrees_of(calibration, calibration.range_min)
    high = degrees_of(calibration, calibration.range_max)
    if name == GRIPPER:
        return Joint(name, JointUnit.PERCENT, 0.0, 100.0, _SERVO_SPEED / (high - low) * 100.0)
    return Joint(name, JointUnit.DEGREES, low, high, _SERVO_SPEED)


def checked_targets(positions: npt.ArrayLike, joints: Iterable[str]) -> Positions:
    """Return finite targets, one a joint.

    Raises:
        InputError: another shape, or not finite.
    """
    names = tuple(joints)
    targets = np.array(positions, dtype=np.float64)
    if targets.shape != (len(names),) or not np.isfinite(targets).all():
        raise InputError(f"targets are {len(names)} finite joint positions {names}; got {positions!r}")
    return targets
