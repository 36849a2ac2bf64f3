"""``molmoact2-edge setup-motors``: one motor at a time, refused otherwise, taken up where it ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from arms.at_terminal import Person, at_terminal, run_command
from emulators.processes import EmulatorProcess, emulator

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


def only(arm: EmulatorProcess, servo: int) -> None:
    """Plug one motor alone."""
    arm.fault("clear only")
    arm.fault(f"only servo={servo}")


def set_up(person: Person, arm: EmulatorProcess, joint: str) -> str:
    number = JOINTS.index(joint) + 1
    only(arm, number)
    person.answers(f"{joint} (id {number}): connect this motor alone")
    return person.sees("Read back.")


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path)}


@pytest.mark.slow
def test_an_unpacked_arm_gets_its_ids_with_a_pause_in_between(state: dict[str, str]) -> None:
    with emulator("so101", "--unpacked", "--unpaced") as arm:
        command = ("setup-motors", "--robot", "so101", "--port", arm.address)
        with at_terminal(*command, env=state) as person:
            person.answers("gripper (id 6): connect this motor alone")  # the whole chain is still connected
            person.sees("Refused: more than one motor answers")
            assert "id 1 -> 6" in set_up(person, arm, "gripper")
            assert "id 1 -> 5" in set_up(person, arm, "wrist_roll")
            person.answers("wrist_flex (id 4)", "q")
            person.sees("The same command goes on here")
            assert person.exit_code() == 3
        with at_terminal(*command, env=state) as person:
            person.answers("Done before: wrist_roll, gripper.")
            for joint in ("wrist_flex", "elbow_flex", "shoulder_lift"):
                set_up(person, arm, joint)
            only(arm, 1)
            person.answers("shoulder_pan (id 1)")
            person.sees("had id 1 already, nothing to change")
            person.answers("Connect the whole chain")  # only the last motor is connected
            person.sees("wrong: no answer from shoulder_lift (id 2)")
            arm.fault("clear only")
            person.answers("Connect the whole chain")
            person.sees("All motors of so101 answer")
            assert person.exit_code() == 0
        scan = json.loads(run_command("scan", "--port", arm.address, "--robot", "so101", "--json").stdout)
    assert [servo["joint"] for servo in scan["servos"]] == list(JOINTS)
    assert scan["findings"] == []
    assert list(Path(state["XDG_STATE_HOME"]).rglob("*.json")) == []


@pytest.mark.slow
def test_unpacked_dynamixel_motors_get_ids_and_the_arm_s_baud_rate(state: dict[str, str]) -> None:
    with emulator("dynamixel", "--unpacked", "--unpaced") as arm:
        command = ("setup-motors", "--robot", "koch", "--port", arm.address)
        with at_terminal(*command, env=state) as person:
            person.answers("gripper (id 6): connect this motor alone")  # the whole chain is still connected
            person.sees("Refused: more than one motor answers (several with id 1)")
            only(arm, 2)  # an XL430, which belongs into the shoulder
            person.answers("gripper (id 6): connect this motor alone")
            person.sees("Refused: gripper of koch wants a xl330-m288, this motor is a xl430-w250")
            for joint in reversed(JOINTS):
                done = set_up(person, arm, joint)
                assert "baud rate 57600 -> 1000000" in done
                assert joint == "shoulder_pan" or f"id 1 -> {JOINTS.index(joint) + 1}" in done
            arm.fault("clear only")
            person.answers("Connect the whole chain")
            person.sees("All motors of koch answer")
            assert person.exit_code() == 0
        scan = json.loads(run_command("scan", "--port", arm.address, "--robot", "koch", "--json").stdout)
        assert [servo["joint"] for servo in scan["servos"]] == list(JOINTS)
        assert {servo["baud"] for servo in scan["servos"]} == {1_000_000}
        assert scan["findings"] == []


@pytest.mark.parametrize("baud", [9_600, 115_200])
def test_a_dynamixel_motor_is_found_at_any_rate_and_brought_to_the_arm_s(
    state: dict[str, str], baud: int
) -> None:
    with emulator("dynamixel", "--servos", "6:xl330-m288", "--baud", str(baud)) as arm:
        command = ("setup-motors", "--robot", "koch", "--port", arm.address, "--joint", "gripper")
        with at_terminal(*command, env=state) as person:
            person.answers("gripper (id 6): connect this motor alone")
            person.sees(f"gripper: baud rate {baud} -> 1000000. Read back.")
            assert person.exit_code() == 0
        scan = run_command("scan", "--port", arm.address, "--protocol", "dynamixel", "--json")
        assert [servo["servo"] for servo in json.loads(scan.stdout)["servos"]] == [6]


def test_no_motor_is_told(state: dict[str, str]) -> None:
    with emulator("so101", "--unpaced") as arm:
        for servo in range(1, 7):
            arm.fault(f"absent servo={servo}")
        command = ("setup-motors", "--robot", "so101", "--port", arm.address, "--joint", "gripper")
        with at_terminal(*command, env=state) as person:
            person.answers("connect this motor alone")
            person.sees("Refused: no motor answers: is its cable in")
            person.answers("connect this motor alone", "q")
            assert person.exit_code() == 3


def test_a_motor_of_another_joint_is_asked_about(state: dict[str, str]) -> None:
    with emulator("so101", "--unpaced") as arm:
        only(arm, 3)
        command = ("setup-motors", "--robot", "so101", "--port", arm.address, "--joint", "gripper")
        with at_terminal(*command, env=state) as person:
            person.answers("connect this motor alone")
            person.answers("This motor has id 3, which is the id of elbow_flex")
            only(arm, 6)
            person.answers("connect this motor alone")
            person.sees("had id 6 already")
            assert person.exit_code() == 0


def test_a_locked_memory_is_told_and_nothing_is_called_done(state: dict[str, str]) -> None:
    with emulator("so101", "--unpacked", "--unpaced") as arm:
        only(arm, 6)
        arm.fault("locked")
        command = ("setup-motors", "--robot", "so101", "--port", arm.address, "--joint", "gripper")
        with at_terminal(*command, env=state) as person:
            person.answers("connect this motor alone")
            person.sees("Refused: ")
            arm.fault("clear locked")
            person.answers("connect this motor alone")
            person.sees("id 1 -> 6")
            assert person.exit_code() == 0


def test_refusals() -> None:
    wrong = run_command("setup-motors", "--robot", "so101", "--port", "/dev/null", "--joint", "elbow")
    assert wrong.returncode == 1
    assert "so101 has no joint 'elbow'; it has shoulder_pan" in wrong.stderr
    other = run_command("setup-motors", "--robot", "sim-so101", "--port", "/dev/null")
    assert other.returncode == 1
    assert "has no servos to set up here" in other.stderr
    assert run_command("setup-motors", "--robot", "so101").returncode == 2
    gone = run_command(
        "setup-motors", "--robot", "so101", "--port", "/dev/ttyNOTHING9", "--joint", "gripper", typed="\n"
    )
    assert gone.returncode == 1
    assert "/dev/ttyNOTHING9" in gone.stderr
