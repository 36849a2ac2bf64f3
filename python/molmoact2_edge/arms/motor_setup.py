"""Gives new motors their ids and baud rate, one at a time, and remembers which are done."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from molmoact2_edge.arms.arm_servos import ArmServos
from molmoact2_edge.arms.bus_scan import ALL_IDS, damaged_packets, several_answer
from molmoact2_edge.arms.servo_bus import FoundServo, ServoBus, bauds, make_bus
from molmoact2_edge.errors import RobotError

_FACTORY_ID = 1
_USUAL_IDS = range(31)


@dataclass(frozen=True)
class Attached:
    """What answers on the port."""

    servos: tuple[FoundServo, ...]
    same_id: tuple[int, ...]
    """Ids to which several motors answer."""

    @property
    def only(self) -> FoundServo | None:
        """The motor, where there is exactly one."""
        return self.servos[0] if len(self.servos) == 1 and not self.same_id else None

    @property
    def text(self) -> str:
        """For people, where it is not exactly one."""
        if not self.servos and not self.same_id:
            return "no motor answers: is its cable in, and is the power supply on (scan --all-bauds looks farther)?"
        found = [f"id {servo.servo} at {servo.baud} baud" for servo in self.servos]
        found += [f"several with id {servo}" for servo in self.same_id]
        return f"more than one motor answers ({', '.join(found)}): unplug all others, only one may be left"


class SetupMemory:
    """Which joints of an arm are done, in a file that outlives the command."""

    def __init__(self, arm: ArmServos, directory: Path | None = None) -> None:
        """``directory`` None is the user's state directory."""
        directory = state_directory() if directory is None else directory
        self._path = directory / f"setup-motors-{arm.robot}-{arm.role.value}.json"
        self._joints = arm.joints

    def done(self) -> tuple[str, ...]:
        """Joints that were done before; none where the file is absent or not ours."""
        try:
            joints = list(json.loads(self._path.read_text(encoding="utf-8"))["done"])
        except (OSError, ValueError, KeyError, TypeError):
            return ()
        return tuple(joint for joint in self._joints if joint in joints)

    def remember(self, joint: str) -> None:
        """Add a joint; failing to do so is no reason to stop."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            done = [*self.done(), joint]
            self._path.write_text(json.dumps({"done": done}) + "\n", encoding="utf-8")

    def forget(self) -> None:
        """Begin anew."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class MotorSetup:
    """Finds the one motor that is attached and makes it a joint's."""

    def __init__(self, arm: ArmServos, port: str, progress: Callable[[str], None] = lambda _: None) -> None:
        self.arm = arm
        self.port = port
        self._progress = progress

    def look(self) -> Attached:
        """Ask at every baud rate, so that a second motor cannot hide; writes nothing.

        At the arm's own rate every id is asked for, at the others the low ones that motors in use have.

        Raises:
            RobotError: the port cannot be opened.
        """
        servos: list[FoundServo] = []
        same_id: list[int] = []
        for baud in bauds(self.arm.protocol):
            self._progress(f"looking for motors at {baud} baud ...")
            with self._bus(baud) as bus:
                before = damaged_packets(bus)
                ids = ALL_IDS if baud == self.arm.baud else _USUAL_IDS
                found = {servo.servo: servo for servo in bus.scan(ids)}
                suspects = ids if damaged_packets(bus) > before else found
                garbled = {servo for servo in suspects if several_answer(bus, servo)}
                same_id += sorted(garbled)
                servos += [servo for number, servo in found.items() if number not in garbled]
        return Attached(tuple(servos), tuple(same_id))

    def belongs_elsewhere(self, joint: str, found: FoundServo) -> str | None:
        """The other joint that a motor has been set up for already, by its id; None where it is new or right.

        A motor fresh from its maker has id 1, so that id says nothing.
        """
        other = self.arm.joint_of(found.servo)
        return None if other == joint or found.servo == _FACTORY_ID else other

    def assign(self, joint: str, found: FoundServo) -> list[str]:
        """Give the motor the joint's id and the arm's baud rate, and read both back; returns what was changed.

        May be repeated, also after it was interrupted half-way.

        Raises:
            RobotError: another model belongs there, or the motor does not keep what it was told.
        """
        wanted_model = self.arm.models.get(joint, "")
        if wanted_model and (found.model or "").lower() != wanted_model:
            came = found.model or f"model number {found.model_number}"
            raise RobotError(f"{joint} of {self.arm.title} wants a {wanted_model}, this motor is a {came}")
        number, changed = self.arm.ids[joint], []
        with self._bus(found.baud) as bus:
            if found.servo != number:
                bus.set_id(found.servo, number)
                changed.append(f"id {found.servo} -> {number}")
            if found.baud != self.arm.baud:
                bus.set_baud(number, self.arm.baud)
                changed.append(f"baud rate {found.baud} -> {self.arm.baud}")
        with self._bus(self.arm.baud) as bus:
            now = bus.identify(number)
            if now is None:
                raise RobotError(
                    f"the motor does not answer to its new id {number} at {self.arm.baud} baud: switch its power "
                    "off and on, then repeat this step"
                )
            if found.servo != number and bus.ping(found.servo):
                raise RobotError(
                    f"after the change a motor still answers to id {found.servo}: a second one is attached; "
                    "unplug it and repeat this step"
                )
        return changed

    @contextlib.contextmanager
    def _bus(self, baud: int) -> Iterator[ServoBus]:
        bus = make_bus(self.arm.protocol, self.port, baud)
        bus.open()
        try:
            yield bus
        finally:
            bus.close()


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where this program keeps what it wants to know next time."""
    home = environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "molmoact2-edge"
