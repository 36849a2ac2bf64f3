"""docs/so101.md is followed to the letter, with emulators in the place of the arms and cameras.

Every block marked ``bash`` is run as it stands, in the order of the document, at a terminal; only the values of ARM,
LEADER, FRONT and WRIST, which the document says are the reader's own, are the emulators'. Blocks marked ``sh`` are what
a test cannot do: they change the system, or they are the emulators' own.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from arms.at_terminal import Person, in_shell
from emulators.processes import EmulatorProcess, emulator

from molmoact2_edge.arms.serial_ports import list_serial_ports
from molmoact2_edge.build import models_dir
from molmoact2_edge.control import Reason
from molmoact2_edge.processor.convention import SO100_SO101

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "so101.md").read_text(encoding="utf-8")
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
OWN = ("ARM", "LEADER", "FRONT", "WRIST")
"""Variables whose values are the reader's."""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@dataclass
class Reader:
    """Somebody who follows the document, and what stands on the table."""

    arm: EmulatorProcess
    leader: EmulatorProcess
    values: dict[str, str]
    env: dict[str, str]

    @contextmanager
    def does(self, block: str) -> Iterator[Person]:
        """Run a block with the reader's own values; those that it sets are kept for the blocks after it."""
        mine = re.sub(
            rf"^({'|'.join(OWN)})=.*$", lambda match: f"{match[1]}={self.values[match[1]]}", block, flags=re.M
        )
        known = "".join(f"{name}={value}\n" for name, value in self.values.items())
        with in_shell(known + mine, self.env) as person:
            yield person


def finds_no_port(reader: Reader, person: Person) -> None:
    if list_serial_ports():  # a computer with an arm: nobody is there to unplug it
        person.types("q")
        assert person.exit_code() == 130
        return
    person.sees("No USB serial port is there")
    assert person.exit_code() == 3


def notes_a_value(reader: Reader, person: Person) -> None:
    assert person.exit_code() == 0


def scans(reader: Reader, person: Person) -> None:
    person.sees("several servos answer to id 1")
    person.sees("setup-motors")
    assert person.exit_code() == 3


def sets_up_motors(reader: Reader, person: Person) -> None:
    for joint in reversed(JOINTS):
        number = JOINTS.index(joint) + 1
        reader.arm.fault("clear only")
        reader.arm.fault(f"only servo={number}")
        person.answers(f"{joint} (id {number}): connect this motor alone")
        person.sees("Read back.")
    reader.arm.fault("clear only")
    person.answers("Connect the whole chain")
    person.sees("All motors of so101 answer")
    assert person.exit_code() == 0


def checks_lerobot_s_calibration(reader: Reader, person: Person) -> None:
    person.sees("there is no calibration at")
    assert person.exit_code() == 1


def calibrates(reader: Reader, person: Person) -> None:
    person.answers("Support it with your hand")
    reader.arm.fault("middle duration=3")
    time.sleep(3.5)
    person.answers("Middle pose [")
    person.sees("Step 2 of 3")
    reader.arm.fault("sweep")
    person.watches(lambda _: [row[-1] for row in person.rows(JOINTS)].count("good") == 5)
    reader.arm.fault("clear sweep")
    reader.arm.fault("middle duration=3")
    time.sleep(3.5)
    person.types("\n")
    person.answers("Write it?", "y")
    person.sees("saved as")
    assert person.exit_code() == 0


def jogs(reader: Reader, person: Person) -> None:
    for joint, by in (("shoulder_pan", 10.0), ("shoulder_lift", -10.0), ("gripper", 20.0)):
        line = person.sees(", goal ") + person.sees("\n")
        found = re.search(r"(\w+): (-?\d+\.\d) -> (-?\d+\.\d), goal", line)
        assert found is not None, line
        assert found[1] == joint
        assert float(found[3]) - float(found[2]) == pytest.approx(by, abs=3.0)
    assert person.exit_code() == 0


def jogs_by_keys(reader: Reader, person: Person) -> None:
    person.sees("keys: 1..9")
    person.sees("gripper")
    person.types("5+")
    time.sleep(1.0)
    person.types("q")
    person.sees("hold the arm where it is")
    assert person.exit_code() == 0


def lists_cameras(reader: Reader, person: Person) -> None:
    assert person.exit_code() == 0


def looks_through_cameras(reader: Reader, person: Person) -> None:
    person.sees("so101: the policy is given, in this order")
    person.sees("1. front: 640x480")
    person.sees("2. wrist: 640x480")
    assert person.exit_code() == 0


def teleoperates(reader: Reader, person: Person) -> None:
    person.sees("following")
    reader.leader.fault("hand servo=1 degrees=20")
    person.watches(
        lambda screen: bool(
            re.findall(r"shoulder_pan +\d+\.\d +1[89]\.\d|shoulder_pan +\d+\.\d +2\d\.\d", screen)
        )
    )
    person.types("x")
    assert person.exit_code() == 0


def runs(reader: Reader, person: Person) -> None:
    assert person.exit_code(timeout_s=240.0) == 0, person.screen[-3000:]
    report = json.loads((Path(reader.env["HOME"]) / "report.json").read_text())
    assert report["completed"]
    assert report["outcomes"][0]["executed_steps"] > 0


def finds_the_emulated_port(reader: Reader, person: Person) -> None:
    person.sees("Unplug the arm's USB cable")
    reader.arm.fault("unplug")
    person.sees("Plug the cable in again")
    reader.arm.fault("clear unplug")
    person.sees(f"use: --port {reader.arm.address}")
    assert person.exit_code() == 0


STEPS: tuple[tuple[str, Callable[[Reader, Person], None]], ...] = (
    ("molmoact2-edge find-port\n", finds_no_port),
    ("ARM=", notes_a_value),
    ("molmoact2-edge scan --robot so101", scans),
    ("molmoact2-edge setup-motors --robot so101", sets_up_motors),
    ("molmoact2-edge calibrate --robot so101 --port $ARM --id my_arm --check", checks_lerobot_s_calibration),
    ("molmoact2-edge calibrate --robot so101 --port $ARM --id my_arm\n", calibrates),
    ("molmoact2-edge jog --robot so101 --port $ARM --id my_arm --joint", jogs),
    ("molmoact2-edge jog --robot so101 --port $ARM --id my_arm\n", jogs_by_keys),
    ("molmoact2-edge cameras --preview", lists_cameras),
    ("FRONT=", looks_through_cameras),
    ("LEADER=", teleoperates),
    ("molmoact2-edge run --robot so101", runs),
    ("molmoact2-edge find-port $ARM", finds_the_emulated_port),
)
"""How the blocks begin, in the document's order, and what the reader does at each."""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    home = tmp_path / "home"
    leader_file = home / "calibrations" / "teleoperators" / "so_leader" / "my_leader.json"
    leader_file.parent.mkdir(parents=True)
    _checkpoint(home / "allenai" / "MolmoAct2-SO100_101")
    env = {
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "HF_LEROBOT_CALIBRATION": str(home / "calibrations"),
    }
    ports = [_free_port(), _free_port()]
    with ExitStack() as opened:
        arm = opened.enter_context(emulator("so101", "--unpacked"))
        leader = opened.enter_context(
            emulator("so101", "--name", "leader", "--calibration", str(leader_file))
        )
        for port in ports:
            opened.enter_context(emulator("camera", "--mjpeg", str(port)))
        values = {"ARM": arm.address, "LEADER": leader.address}
        values |= dict(
            zip(("FRONT", "WRIST"), (f"http://127.0.0.1:{port}/stream.mjpg" for port in ports), strict=True)
        )
        yield Reader(arm, leader, values, env)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _checkpoint(place: Path) -> None:
    """The shipped checkpoint under the released one's name and norm tag, with actions that stay near the middle pose.

    What it does is of no importance here, only that `run` takes it as it takes the released one.
    """
    shutil.copytree(models_dir() / "so101-touch", place)
    statistics = json.loads((place / "norm_stats.json").read_text())
    tags = statistics["metadata_by_tag"]
    (tag,) = tags
    middle = SO100_SO101.to_model([0.0, 0.0, 0.0, 0.0, 0.0, 50.0])
    values = tags.pop(tag)
    values["action_stats"] |= {key: (middle - 5.0).tolist() for key in ("min", "q01", "q10")}
    values["action_stats"] |= {key: (middle + 5.0).tolist() for key in ("max", "q90", "q99")}
    values["action_stats"]["mask"] = [True] * len(middle)
    tags["so100_so101_molmoact2"] = values
    (place / "norm_stats.json").write_text(json.dumps(statistics))


@pytest.mark.slow
@pytest.mark.alone
def test_every_block_does_what_the_document_says(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader.env["HOME"])
    found = blocks("bash")
    assert [
        block for block, (begin, _) in zip(found, STEPS, strict=True) if not block.startswith(begin)
    ] == []
    for block, (_, step) in zip(found, STEPS, strict=True):
        with reader.does(block) as person:
            try:
                step(reader, person)
            except AssertionError as error:
                raise AssertionError(
                    f"at the block\n{block}\n{error}\nshowed:\n{person.screen[-3000:]}"
                ) from error


def test_blocks_that_are_not_run_are_those_that_no_test_can_run() -> None:
    for line in "".join(blocks("sh")).splitlines():
        assert re.match(r"sudo |echo '.*' \| sudo tee |molmoact2-edge emulate ", line), line


def test_every_reason_that_the_document_explains_exists_and_none_that_a_person_meets_is_left_out() -> None:
    explained = set(re.findall(r"^\| (`.*?`) \|", TEXT, re.MULTILINE))
    named = {name for cell in explained for name in re.findall(r"`(\w+)`", cell)}
    known = {reason.value for reason in Reason}
    assert named <= known
    of_the_robot = {
        name
        for name in known
        if name.startswith(("temperature", "current", "state_", "start_", "stop_", "arm_"))
    }
    assert of_the_robot - {"stop_requested"} <= named


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (ROOT / "docs" / target).exists(), target
