"""A real arm as a scenario: what the command line says, what must fit, what a judge does; and the arm that ran."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact2_drivers import Joint, JointUnit, Measurement, RobotCapabilities, StopPolicy
from molmoact2_edge.cli import main
from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.runtime.hardware import DRIVERS, make_robot, with_cameras, with_connection
from molmoact2_edge.runtime.hardware_fit import require_fit, unmeasured_levels, within_reach
from molmoact2_edge.runtime.table_judge import TableJudge

ROBOT = load_robot("so101")


def capabilities(**changes: Any) -> RobotCapabilities:
    joints = tuple(
        Joint(name, JointUnit.PERCENT if name == "gripper" else JointUnit.DEGREES, -200.0, 200.0, 300.0)
        for name in ROBOT.joints
    )
    every = RobotCapabilities(joints, 250.0, frozenset(Measurement), frozenset(StopPolicy))
    return replace(every, **changes)


class Named:
    name = "an arm"

    def __init__(self, capabilities: RobotCapabilities) -> None:
        self.capabilities = capabilities


def test_the_command_line_overlays_the_connection_and_leaves_the_rest() -> None:
    config = replace(ROBOT, connection={"port": None, "id": "left_desk", "left": {"port": "a", "id": "l"}})
    given = with_connection(
        config, port="/dev/ttyACM3", calibration=Path("mine.json"), left_port="b", right_port="c"
    )
    assert given.connection == {
        "port": "/dev/ttyACM3",
        "id": "left_desk",
        "calibration": "mine.json",
        "left": {"port": "b", "id": "l"},
        "right": {"port": "c"},
    }
    assert config.connection["port"] is None
    assert with_connection(config) == config


def test_cameras_are_given_by_name() -> None:
    given = with_cameras(ROBOT, ["wrist=/dev/video2"])
    assert {name: camera.source for name, camera in given.cameras.items()} == {
        "front": None,
        "wrist": "/dev/video2",
    }
    assert list(given.cameras) == ["front", "wrist"]
    with pytest.raises(InputError, match=r"has no camera top; it has front, wrist"):
        with_cameras(ROBOT, ["top=/dev/video0"])
    with pytest.raises(InputError):
        with_cameras(ROBOT, ["/dev/video0"])


def test_a_simulated_robot_has_no_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--robot", "sim-so101", "--port", "/dev/ttyACM0"]) == 1
    assert "is simulated, so that --port has no meaning" in capsys.readouterr().err


def test_a_real_arm_is_told_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--robot", "so101", "--port", "/dev/nothing"]) == 1
    assert "give --task TEXT" in capsys.readouterr().err


def test_an_unknown_driver_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"needs the driver 'hydraulic'; there are sim, "):
        make_robot(replace(ROBOT, driver="hydraulic"))
    assert {"so100", "so101", "dynamixel", "franka", "yam"} <= set(DRIVERS)


def test_a_robot_that_is_not_the_configurations_is_refused() -> None:
    require_fit(ROBOT, Named(capabilities()))  # type: ignore[arg-type]
    for wrong, named in (
        ({"joints": capabilities().joints[1:]}, "has the joints shoulder_lift"),
        ({"stop_policies": frozenset({StopPolicy.DAMP})}, "cannot end with stop.pose hold; it offers damp"),
        ({"command_rate_max_hz": 40.0}, "takes at most 40 commands a second"),
    ):
        with pytest.raises(RobotError, match=named):
            require_fit(ROBOT, Named(capabilities(**wrong)))  # type: ignore[arg-type]


def test_the_gate_is_never_wider_than_the_arm() -> None:
    joints = tuple(
        replace(joint, lower=-40.0, upper=30.0, velocity_max=50.0) if joint.name == "elbow_flex" else joint
        for joint in capabilities().joints
    )
    narrowed = within_reach(ROBOT, capabilities(joints=joints))
    assert narrowed.joints["elbow_flex"].position == (-40.0, 30.0)
    assert narrowed.joints["elbow_flex"].velocity == 50.0
    assert narrowed.joints["wrist_flex"] == ROBOT.joints["wrist_flex"]
    limits = narrowed.limits()
    assert np.array_equal(limits.position_max[:2], ROBOT.limits().position_max[:2])
    nowhere = tuple(replace(joint, lower=150.0, upper=160.0) for joint in capabilities().joints)
    with pytest.raises(RobotError, match=r"shoulder_pan can reach 150\.0 to 160\.0 degrees"):
        within_reach(ROBOT, capabilities(joints=nowhere))


def test_levels_that_nothing_measures_are_named() -> None:
    assert unmeasured_levels(ROBOT, capabilities()) == []
    blind = capabilities(measures=frozenset({Measurement.VELOCITY}))
    assert [sentence.split()[0] for sentence in unmeasured_levels(ROBOT, blind)] == [
        "watchdogs.temperature",
        "watchdogs.current",
    ]
    unwatched = replace(ROBOT, watchdogs=replace(ROBOT.watchdogs, temperature=None, current=None))
    assert unmeasured_levels(unwatched, blind) == []
    one = replace(unwatched.joints["gripper"], current=(0.5, 1.0))
    of_one_joint = replace(unwatched, joints={**unwatched.joints, "gripper": one})
    assert len(unmeasured_levels(of_one_joint, blind)) == 1


class TalkativeJudge:
    """Answers each line with the next of its answers."""

    def __init__(self, path: Path, answers: list[bytes]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection, connection.makefile("rwb") as file, self._socket:
            for answer in self._answers:
                line = file.readline()
                if not line:
                    return
                self.asked.append(json.loads(line))
                file.write(answer)
                file.flush()


@pytest.fixture
def judges(tmp_path: Path) -> Iterator[Any]:
    opened: list[TalkativeJudge] = []

    def make(*answers: bytes) -> tuple[TableJudge, TalkativeJudge]:
        path = tmp_path / f"judge{len(opened)}"
        opened.append(TalkativeJudge(path, list(answers)))
        return TableJudge(path), opened[-1]

    yield make
    for judge in opened:
        judge.thread.join(10.0)


def test_the_judge_sets_scenes_and_says_how_they_ended(judges: Any) -> None:
    judge, table = judges(
        b'{"ok": true, "instruction": "touch the red block"}\n',
        b'{"ok": true, "done": true, "success": true, "reason": "touched", "time_s": 1.0}\n',
        b'{"ok": true, "slipped_s": 0.25}\n',
    )
    assert judge.reset(7, None) == "touch the red block"
    outcome = judge.outcome()
    assert (outcome.done, outcome.success, outcome.reason) == (True, True, "touched")
    assert judge.facts() == {"simulated_time_lost_s": 0.25}
    judge.close()
    assert table.asked == [{"do": "reset", "seed": 7}, {"do": "outcome"}, {"do": "state"}]


def test_a_task_that_the_judge_does_not_know_is_refused_with_its_words(judges: Any) -> None:
    judge, table = judges(b'{"ok": false, "error": "expected touch the ..."}\n')
    with pytest.raises(InputError, match="expected touch the"):
        judge.reset(0, "fold the towel")
    judge.close()
    assert table.asked == [{"do": "reset", "seed": 0, "task": "fold the towel"}]


@pytest.mark.parametrize("answer", [b"", b"no json\n", b"[1]\n", b'{"ok": false, "error": "diverged"}\n'])
def test_a_judge_that_does_not_answer_is_a_robot_error(judges: Any, answer: bytes) -> None:
    judge, _ = judges(answer)
    with pytest.raises(RobotError, match="judge"):
        judge.outcome()
    judge.close()


def test_nobody_judges_at_a_path_without_a_socket(tmp_path: Path) -> None:
    with pytest.raises(RobotError, match="start the emulator with --judge"):
        TableJudge(tmp_path / "nobody")
