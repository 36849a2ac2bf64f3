"""The policy's process dies, hangs or talks nonsense while the arm moves: the loop holds in time and says why."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bench import Bench, configuration
from molmoact2_edge.config import RobotConfig, load_robot
from molmoact2_edge.control import TickRecord
from molmoact2_edge.runtime import Runner, RunSettings
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.runtime.policy_client import PolicyProcess, PolicyProcessSettings
from molmoact2_edge.runtime.status import StatusDisplay
from molmoact2_edge.telemetry.session import TelemetrySettings

CHILD = (sys.executable, str(Path(__file__).with_name("policy_child.py")))
CHUNK_AGE_S = 0.6
FAILING_CALL = 5  # two warm the policy up


@pytest.fixture
def bench() -> Iterator[Bench]:
    scenario = Bench(goal=12.0)
    scenario.open()
    yield scenario
    scenario.close()


def watched() -> RobotConfig:
    """The simulated arm, held when the observation behind an action is older than 0.6 s; chunks last a second."""
    config = configuration()
    return replace(config, watchdogs=replace(config.watchdogs, chunk_age_max_s=CHUNK_AGE_S))


def run(bench: Bench, plan: str, tmp_path: Path, restarts: int) -> tuple[Runner, PolicyProcess]:
    settings = PolicyProcessSettings(plan, call_limit_s=0.3, restarts=restarts)
    policy = PolicyProcess(settings, 1 << 16, command=CHILD)
    runner = Runner(
        bench,
        policy,
        watched(),
        RunSettings(episodes=2, duration_s=30.0, telemetry=TelemetrySettings(blackbox=tmp_path / "blackbox")),
        StatusDisplay(io.StringIO()),
    )
    try:
        runner.run(Interruption())
    finally:
        policy.close()
    return runner, policy


def records_of(runner: Runner) -> list[TickRecord]:
    telemetry = runner.loop.records(0)
    assert telemetry.lost == 0
    return telemetry.records


def nothing_too_old_was_executed(runner: Runner) -> None:
    """Two periods after the limit at the latest, no tick follows a chunk any more, however late the tick itself was."""
    period_ns = 1e9 / runner.config.loop.rate_hz
    ages_ns = [
        record["wakeup_ns"] - record["observed_ns"] for record in records_of(runner) if record["followed"]
    ]
    assert ages_ns
    assert max(ages_ns) <= CHUNK_AGE_S * 1e9 + 2.0 * period_ns


FAULTS = [
    ("kills-itself", "policy_died", "was killed by SIGKILL"),
    ("hogs", "policy_hung", "a call took the policy longer than 0.3 s"),
    ("garbage", "policy_garbled", "bytes that begin with"),
]


@pytest.mark.parametrize(("how", "kind", "said"), FAULTS)
def test_the_arm_holds_and_goes_on_with_a_new_process(
    bench: Bench, tmp_path: Path, how: str, kind: str, said: str
) -> None:
    runner, policy = run(bench, f"once={tmp_path / 'failed'},{how}@{FAILING_CALL}", tmp_path, restarts=1)
    first = runner.results[0]
    assert first.held_back[kind] == 1
    assert said in first.held_back_messages[kind]
    assert "chunk_stale" in {event["reason"] for event in first.gate_events}
    assert runner.successes == 2
    assert policy.restarts == 1
    nothing_too_old_was_executed(runner)


@pytest.mark.parametrize(("how", "kind", "said"), FAULTS[:2])
def test_without_a_restart_the_run_ends_at_rest_with_the_reason(
    bench: Bench, tmp_path: Path, how: str, kind: str, said: str
) -> None:
    runner, policy = run(bench, f"{how}@{FAILING_CALL}", tmp_path, restarts=0)
    (result,) = runner.results  # the second episode has nobody to ask
    assert result.reason.startswith("policy: ")
    assert said in result.reason
    assert result.held_back[kind] == 1
    assert not runner.completed
    assert not runner.loop.running
    assert policy.spent
    nothing_too_old_was_executed(runner)


def test_kill_9_of_the_policy_during_an_episode_in_the_simulator(tmp_path: Path) -> None:
    """The command itself with the shipped policy: the arm stops, the report says why, and nothing is left behind."""
    robot, report = tmp_path / "fragile.yaml", tmp_path / "report.json"
    robot.write_text(
        yaml.safe_dump(
            {"extends": "sim-so101", "name": "fragile", "policy": {"restarts": 0, "frame_age_max_s": 5.0}}
        )
    )
    arguments = [
        sys.executable, "-c", "import sys; from molmoact2_edge.cli import main; sys.exit(main())", "run",
        "--robot", str(robot), "--episodes", "50",
        "--report", str(report), "--blackbox", str(tmp_path / "blackbox"), "--offline",
    ]  # fmt: skip
    command = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert command.stdout is not None
    lines = []
    for line in command.stdout:
        lines.append(line)
        if line.startswith("episode 1/50"):
            break
    children = Path(f"/proc/{command.pid}/task").glob("*/children")
    (policy,) = {int(pid) for path in children for pid in path.read_text().split()}
    assert "policy_process" in Path(f"/proc/{policy}/cmdline").read_text()
    time.sleep(0.5)  # into the second episode
    os.kill(policy, signal.SIGKILL)
    lines.append(command.communicate(timeout=60.0)[0])
    assert command.returncode == 1, "".join(lines)
    assert not Path(f"/proc/{policy}").exists()
    told = json.loads(report.read_text())
    last = told["outcomes"][-1]
    assert last["reason"].startswith("policy: the policy's process was killed by SIGKILL")
    assert not last["completed"]
    assert last["held_back"] == {**last["held_back"], "policy_died": 1}
    assert last["gate_events"][-1]["state"] in ("stopping", "idle")
    assert told["policy"]["failures"][0]["kind"] == "policy_died"
    assert told["policy"]["isolation"] == "process"
    assert "warning policy: the policy's process was killed by SIGKILL" in lines[-1]


def test_what_ships_restarts_a_lost_policy_once() -> None:
    for name in ("so101", "sim-so101"):
        policy = load_robot(name).policy
        assert (policy.isolation, policy.restarts) == ("process", 1)
