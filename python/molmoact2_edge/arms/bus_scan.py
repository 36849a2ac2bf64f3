"""What is on a serial bus, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from molmoact2_edge.arms.arm_servos import DYNAMIXEL, FEETECH, ArmServos
from molmoact2_edge.arms.servo_bus import FoundServo, ServoBus, bauds, make_bus
from molmoact2_edge.errors import RobotError

ALL_IDS = range(253)
"""253 is kept free, as on other buses; 254 is everybody."""

_HOT_CELSIUS = 55.0
_LOW_VOLTS = 4.5
_TRIES = 3  # a bad wire garbles one answer now and then, two servos all of them
_VOLTAGE = {FEETECH: "present_voltage", DYNAMIXEL: "present_input_voltage"}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ScannedServo:
    """One id that answered."""

    servo: int
    baud: int
    protocol: str
    model: str
    """Its name, or the number for a model that nobody knows."""
    firmware: str
    voltage_v: float | None
    temperature_c: float | None
    torque_on: bool | None
    errors: tuple[str, ...]
    joint: str | None = None
    """The joint of the robot that has this id."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, and what to do."""

    kind: str
    """``no_servos same_id absent unexpected model firmware baud voltage temperature error unreadable``."""
    servo: int | None
    text: str


@dataclass
class ScanReport:
    """What a scan found."""

    port: str
    servos: list[ScannedServo] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "port": self.port,
            "servos": [asdict(servo) for servo in self.servos],
            "findings": [asdict(finding) for finding in self.findings],
        }


def scan_port(
    port: str,
    protocols: Sequence[str],
    rates: Sequence[int] = (),
    arm: ArmServos | None = None,
    ids: Iterable[int] = ALL_IDS,
    progress: Progress = lambda _: None,
) -> ScanReport:
    """Ping every id at every rate; ``rates`` empty: all that a protocol knows. Only pings and reads, never a write.

    Raises:
        RobotError: the port cannot be opened.
    """
    report = ScanReport(port)
    wanted = list(ids)
    for protocol in protocols:
        for baud in rates or bauds(protocol):
            progress(f"{protocol} at {baud} baud")
            bus = make_bus(protocol, port, baud)
            bus.open()
            try:
                _scan_at(bus, protocol, baud, wanted, arm, report)
            finally:
                bus.close()
        if report.servos:
            break  # a bus speaks one protocol
    _judge(report, arm)
    return report


def several_answer(bus: ServoBus, servo: int) -> bool:
    """Whether several servos answer to one id.

    To a ping they all say the same, at the same time. Their positions differ: bytes come, but hardly ever a packet.
    """
    if _silent(bus, servo):
        return False
    garbled = 0
    for _ in range(_TRIES):
        before = damaged_packets(bus)
        try:
            bus.read(servo, "present_position")
        except RobotError:
            garbled += damaged_packets(bus) > before
    return garbled >= _TRIES - 1


def _silent(bus: ServoBus, servo: int) -> bool:
    """Whether an id says nothing at all: a ping shows it sooner than the patience of a read."""
    before = damaged_packets(bus)
    try:
        return bus.identify(servo) is None and damaged_packets(bus) == before
    except RobotError:
        return False


def damaged_packets(bus: ServoBus) -> int:
    """Return how many packets have come damaged since the bus was made."""
    counted = bus.statistics()
    return sum(int(counted.get(key, 0)) for key in ("checksum_errors", "wrong_lengths", "damaged"))


def _scan_at(
    bus: ServoBus, protocol: str, baud: int, ids: Sequence[int], arm: ArmServos | None, report: ScanReport
) -> None:
    before = damaged_packets(bus)
    found = {servo.servo: servo for servo in bus.scan(ids)}
    for servo in sorted(set(found) | (set(ids) if damaged_packets(bus) > before else set())):
        if several_answer(bus, servo):
            report.findings.append(
                Finding(
                    "same_id",
                    servo,
                    f"several servos answer to id {servo} at {baud} baud; connect them one at a time and give each an "
                    "id of its own: molmoact2-edge setup-motors",
                )
            )
        elif servo in found:
            report.servos.append(_look_at(bus, protocol, found[servo], arm))


def _look_at(bus: ServoBus, protocol: str, found: FoundServo, arm: ArmServos | None) -> ScannedServo:
    voltage = _read(bus, found.servo, _VOLTAGE[protocol])
    temperature = _read(bus, found.servo, "present_temperature")
    torque = _read(bus, found.servo, "torque_enable")
    return ScannedServo(
        servo=found.servo,
        baud=found.baud,
        protocol=protocol,
        model=found.model or f"model number {found.model_number}",
        firmware=found.firmware,
        voltage_v=None if voltage is None else voltage / 10.0,
        temperature_c=None if temperature is None else float(temperature),
        torque_on=None if torque is None else torque != 0,
        errors=tuple(found.errors),
        joint=None if arm is None else arm.joint_of(found.servo),
    )


def _read(bus: ServoBus, servo: int, register: str) -> int | None:
    try:
        return bus.read(servo, register)
    except RobotError:
        return None


def _judge(report: ScanReport, arm: ArmServos | None) -> None:
    def note(kind: str, servo: int | None, text: str) -> None:
        report.findings.append(Finding(kind, servo, text))

    if not report.servos and not report.findings:
        note(
            "no_servos",
            None,
            f"nothing answered on {report.port}: is the arm's power supply on, the cable from the board to the first "
            "motor in, and this the right port (molmoact2-edge find-port)? Servos at another baud rate answer with "
            "--all-bauds",
        )
        return
    for servo in report.servos:
        _judge_servo(servo, note)
    versions: dict[str, set[str]] = {}
    for servo in report.servos:
        versions.setdefault(servo.model, set()).add(servo.firmware)
    for model, firmware in versions.items():
        if len(firmware) > 1:
            note(
                "firmware",
                None,
                f"{model} servos with different firmware versions, {', '.join(sorted(firmware))}: bring all to one, "
                "with the maker's software",
            )
    if arm is not None:
        _judge_arm(report, arm, note)


def _judge_servo(servo: ScannedServo, note: Callable[[str, int | None, str], None]) -> None:
    name = f"servo {servo.servo}" + (f" ({servo.joint})" if servo.joint else "")
    if servo.voltage_v is None or servo.temperature_c is None:
        note(
            "unreadable",
            servo.servo,
            f"{name} answers pings, but its registers could not be read: check its cable",
        )
    if servo.voltage_v is not None and servo.voltage_v < _LOW_VOLTS:
        note(
            "voltage", servo.servo, f"{name} has {servo.voltage_v:.1f} V only: is the arm's power supply on?"
        )
    if servo.temperature_c is not None and servo.temperature_c >= _HOT_CELSIUS:
        note(
            "temperature",
            servo.servo,
            f"{name} is at {servo.temperature_c:.0f} °C: let it cool with its power off",
        )
    if servo.errors:
        note(
            "error",
            servo.servo,
            f"{name} reports {', '.join(servo.errors)}: relieve it, then switch its power off and on",
        )


def _judge_arm(report: ScanReport, arm: ArmServos, note: Callable[[str, int | None, str], None]) -> None:
    there = {servo.servo for servo in report.servos} | {
        finding.servo for finding in report.findings if finding.kind == "same_id"
    }
    absent = [f"{joint} (id {number})" for joint, number in arm.ids.items() if number not in there]
    if absent:
        note(
            "absent",
            None,
            f"no answer from {', '.join(absent)}: check the cables, the chain is broken before the first of them; "
            "a new motor needs molmoact2-edge setup-motors first",
        )
    for servo in report.servos:
        if servo.joint is None:
            note("unexpected", servo.servo, f"servo {servo.servo} belongs to no joint of {arm.title}")
            continue
        wanted = arm.models.get(servo.joint, "")
        if wanted and servo.model.lower() != wanted:
            note(
                "model",
                servo.servo,
                f"{servo.joint} (id {servo.servo}) is a {servo.model}, {arm.title} wants a {wanted} there",
            )
        if servo.baud != arm.baud:
            note(
                "baud",
                servo.servo,
                f"{servo.joint} (id {servo.servo}) talks at {servo.baud} baud, {arm.title} at {arm.baud}: "
                "molmoact2-edge setup-motors sets it",
            )
