"""The arm that a person moves, and another one follows."""

from __future__ import annotations

import numpy.typing as npt

from molmoact2_drivers.calibration import JointCalibration
from molmoact2_drivers.feetech.arm import SoArm
from molmoact2_drivers.feetech.bus import Torque
from molmoact2_drivers.feetech.settings import ServoSettings, leader_settings
from molmoact2_drivers.protocol import LifeCycle, StopPolicy
from molmoact2_edge.errors import RobotError


class SoLeader(SoArm):
    """A leader of the SO-100 or SO-101: its torque is off from `configure` on, and its positions are read."""

    @property
    def _stop_policies(self) -> frozenset[StopPolicy]:
        return frozenset({StopPolicy.TORQUE_OFF})

    def _settings(self, joint: str, calibration: JointCalibration) -> ServoSettings:
        return leader_settings(joint, calibration)

    def _prepare_configuration(self) -> None:
        self.bus.set_torque(self._servos(), Torque.OFF)

    def activate(self) -> None:
        """Make sure that a person can move it. CONFIGURED -> ACTIVE."""
        self._require(LifeCycle.CONFIGURED)
        self.bus.set_torque(self._servos(), Torque.OFF)
        self._life_cycle = LifeCycle.ACTIVE

    def write_targets(self, positions: npt.ArrayLike) -> None:
        """A leader takes none.

        Raises:
            RobotError: always.
        """
        raise RobotError(f"{self.name} is a leader: a person moves it, and it takes no targets")

    def _stop(self, policy: StopPolicy) -> None:
        self.bus.set_torque(self._servos(), Torque.OFF)

    def _stop_in_error(self, policy: StopPolicy) -> None:
        self._stop(policy)

    def _clear_protection(self) -> None:
        """Without torque nothing protects itself."""

    @property
    def _parting_policy(self) -> StopPolicy:
        return StopPolicy.TORQUE_OFF
