"""Robot configurations: what ships is valid, and every mistake is answered with its file and key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from molmoact2_edge.config import load_robot, robot_names
from molmoact2_edge.errors import InputError


@pytest.mark.parametrize("name", robot_names())
def test_what_ships_is_valid_and_reads_back_as_printed(name: str, tmp_path: Path) -> None:
    config = load_robot(name)
    limits = config.limits()
    assert len(limits) == len(config.joints)
    assert (limits.position_min < limits.position_max).all()
    printed = tmp_path / "printed.yaml"
    printed.write_text(config.to_yaml())
    assert load_robot(printed) == config


def test_extends_overlays_values_and_replaces_tables() -> None:
    real, simulated = load_robot("so101"), load_robot("sim-so101")
    assert simulated.joints == real.joints
    assert simulated.loop.rate_hz == real.loop.rate_hz == 50.0
    assert simulated.driver == "sim"
    assert simulated.policy.norm_tag is None
    assert list(simulated.cameras) == ["front", "wrist"]
    assert simulated.cameras["front"].height == 112
    assert np.array_equal(simulated.start_distances(), real.start_distances())


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("loop", "rate_hz"), 5, r"loop\.rate_hz: expected a number at least 10 and at most 1000, got 5"),
        (("loop", "rate_hz"), "fast", r"loop\.rate_hz: expected a number"),
        (("loop", "rate_hz"), float("nan"), r"loop\.rate_hz: expected a number"),
        (("loop", "fifo_priority"), True, r"loop\.fifo_priority: expected a whole number"),
        (("loop", "silence_fault_s"), 0.01, r"loop\.silence_fault_s: expected a number at least 0\.25"),
        (("loop", "cpus"), [0, -1], r"loop\.cpus: expected a list of CPU numbers"),
        (("loop", "rate"), 50, r"loop\.rate: no such key; did you mean rate_hz\?"),
        (("chunk", "rate_hz"), 60, r"chunk\.rate_hz: expected a number above 0 and at most 50"),
        (("chunk", "mode"), "fast", r"chunk\.mode: expected sync or async or blend or rtc, got 'fast'"),
        (("chunk", "rtc", "mask"), "hard", r"chunk\.rtc\.mask: expected exponential or linear, got 'hard'"),
        (
            ("chunk", "rtc", "delay_quantile"),
            1.5,
            r"chunk\.rtc\.delay_quantile: expected a number above 0 and",
        ),
        (("chunk", "rtc", "freeze"), 3, r"chunk\.rtc\.freeze: no such key"),
        (("policy", "isolation"), "container", r"policy\.isolation: expected process or thread"),
        (("policy", "nice"), -5, r"policy\.nice: expected a whole number from 0 to 19"),
        (("policy", "call_limit_s"), 0, r"policy\.call_limit_s: expected a number above 0"),
        (("chunk", "resampling"), "square", r"chunk\.resampling: expected linear or cubic"),
        (("watchdogs", "camera_age_max_s"), 0, r"watchdogs\.camera_age_max_s: expected a number above 0"),
        (("watchdogs", "overruns_max"), 0, r"watchdogs\.overruns_max: expected a whole number from 1 to 64"),
        (
            ("watchdogs", "temperature"),
            [65, 55],
            r"watchdogs\.temperature: expected \[lowest, highest\] above 0",
        ),
        (("stop", "pose"), "fall", r"stop\.pose: expected hold or damp or torque_off"),
        (("joints", "gripper", "jerk"), 0, r"joints\.gripper\.jerk: expected a number above 0"),
        (("policy", "joint_convention"), "so102", r"policy\.joint_convention: expected none or so100_so101"),
        (("cameras",), {}, r"cameras: expected a mapping of 1 to 16 names"),
        (("cameras", "front", "height"), 0, r"cameras\.front\.height: expected a whole number"),
        (("cameras", "front", "resize"), 1, r"cameras\.front\.resize: expected true or false, got 1"),
        (("cameras", "front", "resize"), None, r"cameras\.front\.resize: expected true or false, got None"),
        (
            ("cameras", "front", "lost_fault_s"),
            None,
            r"cameras\.front\.lost_fault_s: expected a number above 0",
        ),
        (
            ("cameras", "front", "freeze_fault_s"),
            0,
            r"cameras\.front\.freeze_fault_s: expected a number above 0",
        ),
        (
            ("cameras", "front", "freeze_fault"),
            1,
            r"cameras\.front\.freeze_fault: no such key; did you mean freeze_fault_s\?",
        ),
        (
            ("joints", "gripper", "position"),
            [100, 0],
            r"joints\.gripper\.position: expected \[lowest, highest\]",
        ),
        (("joints", "gripper", "jump"), 0, r"joints\.gripper\.jump: expected a number above 0"),
        (("joints", "gripper"), 3, r"joints\.gripper: expected a mapping"),
        (("speed",), 3, r"speed: no such key"),
        (("name",), None, r"name: expected a text"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(
    place: tuple[str, ...], value: object, named: str, tmp_path: Path
) -> None:
    data = load_robot("sim-so101").as_dict()
    section = data
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=rf"mine\.yaml: {named}"):
        load_robot(path)


def test_what_may_be_absent_or_null_is_off_and_a_joint_may_have_levels_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: so101\n"
        "watchdogs: {chunk_age_max_s: null, overruns_max: null, temperature: null, overrun_response: fault}\n"
        "joints:\n"
        "  hip: {position: [0, 1], velocity: 1, acceleration: 2, jump: 1, start_distance: 1, jerk: 40,"
        " temperature: [40, 50]}\n"
        "  knee: {position: [0, 1], velocity: 1, acceleration: 2, jump: 1, start_distance: 1}\n"
    )
    config = load_robot(path)
    limits, watchdogs = config.limits(), config.watchdog_settings()
    assert limits.jerk_max is not None
    assert limits.jerk_max.tolist() == [40.0, 0.0]
    assert (watchdogs.chunk_age_max_s, watchdogs.overruns_max, watchdogs.overruns_fault) == (None, None, True)
    assert watchdogs.cameras == ("front", "wrist")
    assert watchdogs.temperature is not None
    assert watchdogs.temperature.warn == (40.0, np.inf)
    assert watchdogs.current is not None
    assert watchdogs.current.limit == (2.5, 2.5)


def test_a_camera_that_freezes_is_watched_unless_it_says_no_and_none_is_resized_unasked(
    tmp_path: Path,
) -> None:
    size = "height: 480, width: 640, rate_hz: 30"
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"extends: so101\ncameras:\n  plain: {{{size}}}\n"
        f"  own: {{{size}, resize: true, lost_fault_s: 2, freeze_fault_s: 0.5}}\n"
        f"  drawn: {{{size}, freeze_fault_s: null}}\n"
    )
    cameras = load_robot(path).cameras
    told = {
        name: (camera.resize, camera.lost_fault_s, camera.freeze_fault_s) for name, camera in cameras.items()
    }
    assert told == {"plain": (False, 5.0, 1.0), "own": (True, 2.0, 0.5), "drawn": (False, 5.0, None)}
    assert load_robot("emulated-so101").cameras["front"].freeze_fault_s is None


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    data = load_robot("sim-so101").as_dict()
    del data["joints"]["elbow_flex"]["velocity"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=r"joints\.elbow_flex\.velocity: missing; expected a number above 0"):
        load_robot(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- 1\n- 2\n", "expected a mapping of keys, got list"),
        ("a: [1\n", "not readable as YAML"),
        ("extends: 3\n", "extends: expected"),
        ("extends: mine.yaml\n", "extends leads back to itself"),
        ("name: a\nname: b\n", "the key 'name' comes twice"),
        ("extends: so101\nloop: {rate_hz: 50, cpus: [], rate_hz: 100}\n", "the key 'rate_hz' comes twice"),
        ("extends: nobody\n", "no robot 'nobody'; there are"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=named):
        load_robot(path)


def test_an_unknown_robot_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="so101"):
        load_robot("so102")
    with pytest.raises(InputError, match="no robot configuration at"):
        load_robot("missing.yaml")
