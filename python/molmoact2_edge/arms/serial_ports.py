"""Serial ports of this computer: which there are, under which names they stay the same, and which one came or went."""

from __future__ import annotations

import getpass
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from molmoact2_edge.errors import MissingExtraError

_BY_ID = Path("/dev/serial/by-id")


@dataclass(frozen=True)
class SerialPort:
    """A port that is there."""

    path: str
    """The name to use: one that stays the same when devices are plugged in another order, where there is one."""
    device: str
    """The kernel's name, e.g. /dev/ttyACM0."""
    description: str = ""
    """What the device says about itself."""
    hardware_id: str = ""
    """USB vendor and product, e.g. 1a86:55d3; empty for what is no USB device."""
    serial_number: str = ""

    @property
    def usable(self) -> bool:
        """Whether this user may read and write it."""
        return os.access(self.device, os.R_OK | os.W_OK)


def list_serial_ports(given: Sequence[str] = (), by_id: Path = _BY_ID) -> list[SerialPort]:
    """Return the USB serial ports of this computer, or, of the paths in ``given``, those that exist, as they are.

    Ports that are soldered to the board (``/dev/ttyS0`` and the like) are left out: no arm is at them.

    Raises:
        MissingExtraError: pyserial is not installed.
    """
    if given:
        return [SerialPort(path, os.path.realpath(path)) for path in given if _is_device(path)]
    try:
        from serial.tools import list_ports
    except ImportError as error:
        raise MissingExtraError(
            "listing serial ports needs pyserial: pip install 'molmoact2-edge[arms]', or name the port yourself"
        ) from error
    stable = _stable_names(by_id)
    return sorted(
        (
            SerialPort(
                path=stable.get(os.path.realpath(port.device), port.device),
                device=port.device,
                description=_description(port.manufacturer, port.product),
                hardware_id="" if port.vid is None else f"{port.vid:04x}:{port.pid:04x}",
                serial_number=port.serial_number or "",
            )
            for port in list_ports.comports()
            if port.vid is not None
        ),
        key=lambda port: port.device,
    )


def ports_that_left(before: Iterable[SerialPort], now: Iterable[SerialPort]) -> list[SerialPort]:
    """Return the ports of ``before`` that are not there any more."""
    there = {port.path for port in now}
    return [port for port in before if port.path not in there]


def ports_that_came(before: Iterable[SerialPort], now: Iterable[SerialPort]) -> list[SerialPort]:
    """Return the ports that were not there before."""
    known = {port.path for port in before}
    return [port for port in now if port.path not in known]


def permission_advice(port: SerialPort) -> str:
    """What to do where this user may not open ``port``; empty where nothing is in the way."""
    if port.usable:
        return ""
    user = getpass.getuser()
    try:
        import grp

        group = grp.getgrgid(os.stat(port.device).st_gid).gr_name
    except (OSError, KeyError):
        group = "dialout"
    return (
        f"user {user} may not open {port.device}, which belongs to the group {group}. Run\n"
        f"    sudo usermod -aG {group} {user}\n"
        "once, then log out and in again (a new terminal is not enough)"
    )


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def _stable_names(by_id: Path) -> dict[str, str]:
    """The names in /dev/serial/by-id by the device that they lead to."""
    try:
        links = sorted(by_id.iterdir())
    except OSError:
        return {}
    return {os.path.realpath(link): str(link) for link in links}


def _description(manufacturer: str | None, product: str | None) -> str:
    words = [word for word in (manufacturer, product) if word]
    return " ".join(dict.fromkeys(words))
