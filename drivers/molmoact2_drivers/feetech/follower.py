"""The arm that follows commands."""

from __future__ import annotations

import contextlib

import numpy.typing as npt

from molmoact2_drivers.calibration import JointCalibration
from molmoact2_drivers.feetech.arm import PROTECTIVE_ERRORS, SoArm, checked_targets
from molmoact2_drivers.feetech.bus import Torque
from molmoact2_drivers.feetech.settings import ServoSettings, follower_settings
from molmoact2_drivers.protocol import LifeCycle, StopPolicy
from molmoact2_edge.errors import RobotError

# A joint that stands further than this beyond its range would be pulled back into it with full speed: about 4 degrees.
_OUTSIDE_MAX_TICKS = 45
_CLEARED_BY_TORQUE = frozenset({"overload", "current"})


class SoFollower(SoArm):
    """A follower of the SO-100 or SO-101: `SoFollower("/dev/ttyACM0", load_calibration(path))`."""

    @property
    def _stop_policies(self) -> frozenset[StopPolicy]:
        return frozenset(StopPolicy)

    def _settings(self, joint: str, calibration: JointCalibration) -> ServoSettings:
        return follower_settings(joint, calibration)

    def activate(self) -> None:
        """Hold the present pose, with torque, and follow targets from then on. CONFIGURED -> ACTIVE.

        Raises:
            RobotError: a joint stands outside its range, or a servo does not obey. What holds by then goes on holding.
        """
        self._require(LifeCycle.CONFIGURED)
        self._hold()
        self._port.follow(True)
        self._life_cycle = LifeCycle.ACTIVE

    def write_targets(self, positions: npt.ArrayLike) -> None:
        """Send joint targets once: (6,) degrees, the gripper in per cent; clamped to the calibrated range. ACTIVE.

        Raises:
            InputError: wrong shape, or not finite.
            RobotError: the arm is not active, or unplugged.
        """
        self._require(LifeCycle.ACTIVE)
        if not self._port.send_targets(checked_targets(positions, self.calibration)):
            raise RobotError(f"{self.name} took no targets: {self._missing()}")

    @property
    def _parting_policy(self) -> StopPolicy:
        return StopPolicy.HOLD

    def _prepare_configuration(self) -> None:
        """An arm that is held stays so."""

    def _hold(self) -> None:
        present = self.bus.read_many(self._servos(), "present_position")
        for name, joint in self.calibration.items():
            beyond = max(joint.range_min - present[joint.id], present[joint.id] - joint.range_max)
            if beyond > _OUTSIDE_MAX_TICKS:
                raise RobotError(
                    f"{self.name}: {name} stands at {present[joint.id]} ticks, outside its range {joint.range_min} to "
                    f"{joint.range_max}: move it by hand, or calibrate the arm anew"
                )
        for joint in self.calibration.values():
            self._hold_here(joint)

    def _hold_here(self, joint: JointCalibration) -> None:
        # Read just before: without torque the arm may have been moved since it was looked at.
        goal = self.bus.read(joint.id, "present_position")
        self.bus.write_checked(joint.id, "goal_position", min(joint.range_max, max(joint.range_min, goal)))
        self.bus.set_torque([joint.id], Torque.ON)

    def _stop(self, policy: StopPolicy) -> None:
        if policy is StopPolicy.HOLD and self._life_cycle is LifeCycle.ACTIVE:
            for joint in self.calibration.values():
                self._hold_here(joint)
        elif policy is StopPolicy.HOLD:
            self._hold()
        else:
            torque = Torque.DAMPED if policy is StopPolicy.DAMP else Torque.OFF
            self.bus.set_torque(self._servos(), torque)

    def _stop_in_error(self, policy: StopPolicy) -> None:
        # To hold, nothing is written: servos that can hold do, and one that has let go to protect itself must not be
        # made to try again.
        if policy is StopPolicy.HOLD:
            return
        torque = Torque.DAMPED if policy is StopPolicy.DAMP else Torque.OFF
        for servo in self._servos():
            with contextlib.suppress(RobotError):
                self.bus.set_torque([servo], torque)

    def _clear_protection(self) -> None:
        for name, joint in self.calibration.items():
            errors = self._protective_errors(joint.id)
            if errors and errors <= _CLEARED_BY_TORQUE:
                # It has let go already. Torque anew, where it stands, ends its error, if the cause has ended.
                self.bus.set_torque([joint.id], Torque.OFF)
                self._hold_here(joint)
                errors = self._protective_errors(joint.id)
            if errors:
                raise RobotError(
                    f"{self.name}: {name} (servo {joint.id}) still reports {', '.join(sorted(errors))}; "
                    "wait, then recover"
                )

    def _protective_errors(self, servo: int) -> frozenset[str]:
        found = self.bus.identify(servo)
        return PROTECTIVE_ERRORS.intersection(() if found is None else found.errors)
