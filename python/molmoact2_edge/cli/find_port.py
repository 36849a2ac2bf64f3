"""``molmoact2-edge find-port``: which serial port the arm is on."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from molmoact2_edge.errors import InputError

if TYPE_CHECKING:
    from molmoact2_edge.arms.serial_ports import SerialPort
    from molmoact2_edge.cli.terminal import Keys, Terminal

_POLL_S = 0.1
_SETTLE_S = 1.0  # a hub's other ports, and the kernel's names, follow a little later
_NOT_FOUND = 3

_EXIT_CODES = """exit code: 0 when the arm was found; 3 when it was not; 1 after an error; 2 for wrong arguments;
130 when it was given up with q or Ctrl-C."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "find-port",
        help="tell which serial port an arm is on",
        description="Asks you to unplug the arm's USB cable and to plug it in again, and says which port went and "
        "came. With --scan nothing is unplugged: each port is asked for servos. A device that is no arm gets "
        "nothing but pings.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument(
        "ports",
        nargs="*",
        metavar="PORT",
        help="look at these only, e.g. an emulator's (default: all USB ports)",
    )
    parser.add_argument("--scan", action="store_true", help="ask each port for servos instead of unplugging")
    parser.add_argument("--list", action="store_true", help="list the ports and end")
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="give up after S seconds (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for scripts")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Find the port; returns the exit code."""
    from molmoact2_edge.arms.serial_ports import list_serial_ports

    ports = list_serial_ports(arguments.ports)
    missing = sorted(set(arguments.ports) - {port.path for port in ports})
    if missing:
        raise InputError(
            f"no serial port at {', '.join(missing)}; without arguments find-port lists those that exist"
        )
    if arguments.list:
        return _print_list(ports, arguments.json)
    if arguments.scan:
        return _scan(ports, arguments.json)
    return _unplug_and_plug(ports, arguments)


def _print_list(ports: list[SerialPort], as_json: bool) -> int:
    if as_json:
        print(json.dumps([_plain(port) for port in ports], indent=2))
    else:
        print("\n".join(_listing(ports)))
    return 0 if ports else _NOT_FOUND


def _scan(ports: list[SerialPort], as_json: bool) -> int:
    from molmoact2_edge.arms.port_search import probe

    answers = []
    for port in ports:
        answer = probe(port)
        answers.append(answer)
        if not as_json:
            print(f"{port.path}: {answer.text}")
    found = [answer for answer in answers if answer.servos]
    if as_json:
        print(json.dumps([answer.as_dict() for answer in answers], indent=2))
    elif not ports:
        print(_NO_PORTS)
    elif not found:
        print(
            "\nNo servos answered on any port: is the arm's power supply on? A new motor answers too, at its own rate."
        )
    else:
        print(f"\nuse: --port {found[0].port.path}")
    return 0 if found else _NOT_FOUND


def _unplug_and_plug(ports: list[SerialPort], arguments: argparse.Namespace) -> int:
    from molmoact2_edge.cli.terminal import Terminal

    if arguments.json:
        raise InputError("--json goes with --list and --scan; finding by unplugging is a talk with a person")
    terminal = Terminal()
    terminal.say("\n".join(_listing(ports)))
    if not ports:
        return _NOT_FOUND
    search = _Search(terminal, ports, arguments)
    with terminal.keys() as keys:
        return search.run(keys)


class _Search:
    """Watches the ports while the person pulls a cable and puts it back."""

    def __init__(self, terminal: Terminal, ports: list[SerialPort], arguments: argparse.Namespace) -> None:
        self._terminal = terminal
        self._before = ports
        self._given: list[str] = arguments.ports
        self._give_up = time.monotonic() + arguments.timeout

    def run(self, keys: Keys) -> int:
        from molmoact2_edge.arms.serial_ports import permission_advice, ports_that_left

        self._terminal.say(
            "\nUnplug the arm's USB cable from this computer now (its power may stay on). q gives up."
        )
        if not self._wait(keys, lambda: bool(ports_that_left(self._before, self._now()))):
            return self._failed(
                "no port went away. Is the cable the arm's, and does it carry data, not power only?"
            )
        time.sleep(_SETTLE_S)
        gone = ports_that_left(self._before, self._now())
        if len(gone) > 1:
            names = ", ".join(port.path for port in gone)
            return self._failed(
                f"{len(gone)} ports went away together: {names}. Plug the hub in again and unplug the arm alone"
            )
        port = gone[0]
        self._terminal.say(f"{port.path} went away. Plug the cable in again.")
        back = self._wait_back(keys, port)
        if back is None:
            return self._failed(f"{port.path} did not come back")
        self._terminal.say(f"\nThe arm is on {back.path}")
        if back.path == back.device and not self._given:
            self._terminal.say(
                "That name may change when devices are plugged in another order; this system offers no lasting one."
            )
        advice = permission_advice(back)
        if advice:
            self._terminal.say(f"\nBut {advice}.")
        self._terminal.say(f"use: --port {back.path}")
        return 0

    def _wait_back(self, keys: Keys, port: SerialPort) -> SerialPort | None:
        from molmoact2_edge.arms.serial_ports import ports_that_came

        gone = [known for known in self._before if known.path != port.path]
        if not self._wait(keys, lambda: bool(ports_that_came(gone, self._now()))):
            return None
        time.sleep(_SETTLE_S)
        came = ports_that_came(gone, self._now())
        same = [candidate for candidate in came if candidate.path == port.path]
        return next(iter(same or came), None)

    def _wait(self, keys: Keys, happened: Callable[[], bool]) -> bool:
        while not happened():
            if time.monotonic() > self._give_up:
                return False
            if keys.get(_POLL_S) == "q":
                raise KeyboardInterrupt
        return True

    def _now(self) -> list[SerialPort]:
        from molmoact2_edge.arms.serial_ports import list_serial_ports

        return list_serial_ports(self._given)

    def _failed(self, text: str) -> int:
        self._terminal.say(f"\nNot found: {text}.")
        return _NOT_FOUND


_NO_PORTS = (
    "No USB serial port is there. Plug the arm's USB cable in; where it is in, try another cable (many carry power "
    "only), and see whether `sudo dmesg | tail` names the device."
)


def _listing(ports: list[SerialPort]) -> list[str]:
    from molmoact2_edge.cli.terminal import table

    if not ports:
        return [_NO_PORTS]
    rows = [
        [
            port.path,
            port.device,
            port.hardware_id,
            port.description,
            "yes" if port.usable else "no permission",
        ]
        for port in ports
    ]
    return table(["port", "device", "usb id", "says it is", "usable"], rows)


def _plain(port: SerialPort) -> dict[str, object]:
    return {**vars(port), "usable": port.usable}
