"""The libraries that speak to a Franka arm behind one face: pylibfranka for the FR3, panda-python for the older Panda.

Both wrap libfranka; each release of it speaks to one version of the arm's software. Only the arm's own process uses it.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from molmoact2_edge.errors import MissingExtraError, RobotError

Vector = npt.NDArray[np.float64]

MODES = ("other", "idle", "move", "guiding", "reflex", "user stopped", "automatic error recovery")
"""libfranka's `RobotMode`."""
_UNFILTERED = 1000.0  # Hz: libfranka's low-pass filter is off at its highest frequency


class FciError(RobotError):
    """The arm refused or ended something. ``lost``: the connection is gone, and with it the use of this process."""

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


@dataclass(frozen=True)
class FciState:
    """What the driver reads of a state; rad, rad/s, Nm."""

    time_ms: int
    robot_mode: int
    success_rate: float
    positions: tuple[float, ...]
    velocities: tuple[float, ...]
    torques: tuple[float, ...]
    commanded: tuple[float, ...]
    """Positions that the arm was told to have, and goes to."""
    commanded_velocities: tuple[float, ...]
    commanded_accelerations: tuple[float, ...]
    errors: Any
    """libfranka's flags: true where there is one; as text, their names."""


Step = Callable[[FciState], tuple[Vector, bool]]
"""From a state to the command that answers it, (7,), and whether it is the last. Called once a millisecond."""


class FciInterface(Protocol):
    """One connected arm. Every method raises FciError."""

    def read(self) -> FciState:
        """Wait for the next state."""

    def configure(self, impedance: list[float] | None, collision: tuple[list[float], list[float]]) -> None:
        """Set joint stiffness (Nm/rad; None: the arm's own), and from which torques and forces on it has collided."""

    def recover(self) -> None:
        """Clear a reflex."""

    def move_positions(self, step: Step) -> None:
        """Run a motion of joint positions until the last command."""

    def move_torques(self, step: Step) -> None:
        """Run a motion of joint torques, without gravity, until the last command."""


def open_interface(arm: str, address: str, enforce_realtime: bool) -> FciInterface:
    """Connect to an arm.

    Raises:
        MissingExtraError: its library is not installed.
        FciError: nobody answers, or in another version of the interface.
    """
    if arm == "panda":
        return _PandaPython(address, enforce_realtime)
    return _Pylibfranka(address, enforce_realtime)


def describe(state: FciState) -> str:
    """Say why an arm takes no motion, and what to do."""
    mode = MODES[state.robot_mode] if state.robot_mode < len(MODES) else f"mode {state.robot_mode}"
    names = f" {state.errors}" if state.errors else ""
    return f"the arm is in {mode}{names}{_advice(f'{mode}{names}')}"


_RELEASE = "release the stop on the arm, then recover"
_ADVICE = {
    "user stopped": _RELEASE,  # our name of the mode
    "User Stop": _RELEASE,  # libfranka's, where it ends a motion
    "guiding": "somebody guides the arm by hand; let go of its buttons, then recover",
    "joint_reflex": "it met something: look what, clear its way, then recover",
    "cartesian_reflex": "it met something: look what, clear its way, then recover",
    "communication_constraints_violation": "more than 20 commands in a row came too late: see what "
    "`molmoact2-edge profile` says, connect the arm without a switch, then recover",
    "discontinuity": "a command jumped, as after commands that were lost on the way; recover",
    "limits_violation": "move the arm away from its end by hand, then recover",
    "velocity_violation": "recover",
    "reflex": "recover",
}


def _advice(text: str) -> str:
    for word, advice in _ADVICE.items():
        if word in text:
            return f"; {advice}"
    return ""


def _module(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{name} is needed for this arm: {extra}") from error


class _Libfranka(abc.ABC):
    """What both bindings of libfranka do under the same names."""

    _library: Any
    _robot: Any

    def read(self) -> FciState:
        with self._errors():
            return _state(self._robot.read_once())

    def configure(self, impedance: list[float] | None, collision: tuple[list[float], list[float]]) -> None:
        torques, forces = collision
        with self._errors():
            self._robot.set_collision_behavior(torques, torques, forces, forces)
            if impedance is not None:
                self._robot.set_joint_impedance(impedance)

    def recover(self) -> None:
        with self._errors():
            self._robot.automatic_error_recovery()

    @abc.abstractmethod
    def _errors(self) -> AbstractContextManager[None]:
        """Turn the binding's errors into FciError."""


class _Pylibfranka(_Libfranka):
    """libfranka 0.18 and later: version 10 of the interface."""

    def __init__(self, address: str, enforce_realtime: bool) -> None:
        self._library = _module("pylibfranka", "pip install 'molmoact2-edge[franka]'")
        config = self._library.RealtimeConfig
        with self._errors():
            self._robot = self._library.Robot(
                address, config.kEnforce if enforce_realtime else config.kIgnore
            )

    def move_positions(self, step: Step) -> None:
        mode = self._library.ControllerMode.JointImpedance
        self._move(lambda: self._robot.start_joint_position_control(mode), self._library.JointPositions, step)

    def move_torques(self, step: Step) -> None:
        self._move(self._robot.start_torque_control, self._library.Torques, step)

    def _move(self, start: Callable[[], Any], kind: Callable[[list[float]], Any], step: Step) -> None:
        active = None
        try:
            with self._errors():
                active = start()
                while True:
                    values, last = step(_state(active.readOnce()[0]))
                    command = kind(values.tolist())
                    command.motion_finished = last
                    active.writeOnce(command)
                    if last:
                        return
        finally:
            # Its end cancels a motion that is not over; until then the robot cannot be read.
            del active

    @contextmanager
    def _errors(self) -> Iterator[None]:
        library = self._library
        try:
            yield
        except library.NetworkException as error:
            raise FciError(f"{error}", lost=True) from error
        except (
            library.ControlException,
            library.CommandException,
            library.InvalidOperationException,
        ) as error:
            raise FciError(f"{error}{_advice(f'{error}')}") from error
        except (library.RealtimeException, library.FrankaException) as error:
            raise FciError(f"{error}", lost=True) from error


class _PandaPython(_Libfranka):
    """libfranka 0.9: version 5 of the interface."""

    def __init__(self, address: str, enforce_realtime: bool) -> None:
        package = _module("panda_py", "pip install 'molmoact2-edge[franka]'")
        self._library = package.libfranka
        config = self._library.RealtimeConfig
        with self._errors():
            self._robot = self._library.Robot(
                address, config.kEnforce if enforce_realtime else config.kIgnore
            )

    def move_positions(self, step: Step) -> None:
        mode = self._library.ControllerMode.kJointImpedance
        callback = self._callback(step, self._library.JointPositions)
        with self._errors():
            self._robot.control_joint_position(callback, mode, False, _UNFILTERED)

    def move_torques(self, step: Step) -> None:
        with self._errors():
            self._robot.control(self._callback(step, self._library.Torques), False, _UNFILTERED)

    @staticmethod
    def _callback(step: Step, kind: Callable[[list[float]], Any]) -> Callable[[Any, Any], Any]:
        def answer(state: Any, duration: Any) -> Any:
            values, last = step(_state(state))
            command = kind(values.tolist())
            command.motion_finished = last
            return command

        return answer

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RobotError:
            raise
        except RuntimeError as error:  # what the binding makes of every error of libfranka
            text = f"{error}"
            lost = any(word in text for word in ("TCP", "UDP", "onnection", "version"))
            raise FciError(f"{text}{_advice(text)}", lost=lost) from error


def _state(state: Any) -> FciState:
    return FciState(
        time_ms=round(state.time.to_sec() * 1000.0),
        robot_mode=int(state.robot_mode.value),
        success_rate=state.control_command_success_rate,
        positions=tuple(state.q),
        velocities=tuple(state.dq),
        torques=tuple(state.tau_J),
        commanded=tuple(state.q_d),
        commanded_velocities=tuple(state.dq_d),
        commanded_accelerations=tuple(state.ddq_d),
        errors=state.current_errors,
    )
