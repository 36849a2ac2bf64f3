"""The policy in a process of its own: what goes over, what comes back, and every way in which it can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact2_edge.errors import CheckpointError, InputError, PolicyError
from molmoact2_edge.guide import ActionGuide
from molmoact2_edge.runtime.policy_client import PolicyProcess, PolicyProcessSettings

CHILD = (sys.executable, str(Path(__file__).with_name("policy_child.py")))
IMAGES = [np.full((24, 32, 3), 3, np.uint8), np.full((10, 7, 3), 5, np.uint8)]
FRAME_BYTES = 1 << 16

Start = Callable[..., PolicyProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[PolicyProcess] = []

    def begin(plan: str, **settings: Any) -> PolicyProcess:
        policy = PolicyProcess(PolicyProcessSettings(plan, **settings), FRAME_BYTES, command=CHILD)
        started.append(policy)
        return policy

    yield begin
    for policy in started:
        policy.close()
        assert not alive(policy.pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def call(policy: PolicyProcess, **options: Any) -> Any:
    return policy.predict(IMAGES, "reach", np.arange(6.0), "tag", seed=7, **options)


def test_a_call_and_its_answer_arrive_whole(start: Start) -> None:
    policy = start("follows")
    assert policy.wait_ready()["device"] == "none"
    for _ in range(3):
        answer = call(policy, convention="so100_so101")
        assert answer.valid
        # The images were seen in place, unchanged, and could not be written to.
        assert answer.reason == "reach|tag|7|so100_so101|[6912, 1050]|False"
        np.testing.assert_array_equal(answer.actions[:, 1:], np.tile(np.arange(1.0, 6.0), (10, 1)))
        np.testing.assert_array_equal(answer.actions[:, 0], np.arange(1.0, 11.0))
        assert answer.timing["total"] == 0.0
        assert answer.timing["transport"] > 0.0
    guided = call(policy, guide=ActionGuide(np.full((2, 6), 0.5), [1.0, 0.25]))
    np.testing.assert_array_equal(guided.actions[:2], 0.5)
    assert policy.failure is None
    assert policy.failures == []


def test_the_real_process_gives_the_actions_of_the_policy_in_this_one(reference: Path) -> None:
    from molmoact2_edge import Policy

    checkpoint = str(reference / "tiny-base")
    images = [np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)] * 2
    here = Policy.from_pretrained(checkpoint, device="cpu", dtype="float32")
    remote = PolicyProcess(
        PolicyProcessSettings(checkpoint, device="cpu", dtype="float32", threads=1, nice=3), FRAME_BYTES
    )
    try:
        assert remote.wait_ready()["threads"] == 1
        assert remote.about["backends"] == here.backends
        assert os.getpriority(os.PRIO_PROCESS, remote.pid) == min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19)
        first = here.predict(images, "reach", np.zeros(6), "so101_tiny", seed=4)
        for guide in (None, ActionGuide(first.actions[3:], np.linspace(1, 0, 9))):
            expected = here.predict(images, "reach", np.zeros(6), "so101_tiny", seed=5, guide=guide)
            found = remote.predict(images, "reach", np.zeros(6), "so101_tiny", seed=5, guide=guide)
            np.testing.assert_allclose(found.actions, expected.actions, rtol=0, atol=1e-4)
            assert found.guide_clipped == expected.guide_clipped
            assert set(found.timing) == {*expected.timing, "transport"}
        with pytest.raises(InputError, match="expected 6 numbers for 'so101_tiny'"):
            remote.predict(images, "reach", np.zeros(5), "so101_tiny")
        assert remote.failure is None
    finally:
        remote.close()


@pytest.mark.parametrize(
    ("plan", "kind", "said"),
    [
        ("kills-itself@2", "policy_died", "was killed by SIGKILL"),
        ("exits@2", "policy_died", "ended with exit code 3"),
        ("hangs@2", "policy_hung", "a call took the policy longer than 0.2 s"),
        ("hogs@2", "policy_hung", "a call took the policy longer than 0.2 s"),
        ("half-a-message@2", "policy_hung", "a call took the policy longer than 0.2 s"),
        ("garbage@2", "policy_garbled", "expected a message, got bytes that begin with b'Trac'"),
        ("not-a-prediction@2", "policy_garbled", "does not list its arrays"),
    ],
)
def test_a_process_that_fails_is_found_out_and_gone(start: Start, plan: str, kind: str, said: str) -> None:
    policy = start(plan, call_limit_s=0.2)
    call(policy)
    with pytest.raises(PolicyError, match=said) as raised:
        call(policy)
    assert raised.value.kind == kind
    assert policy.failure is not None
    assert (policy.failure.kind, policy.failure.message) == (kind, str(raised.value))
    assert policy.spent
    assert not alive(policy.pid)
    # There is nobody to ask any more, and the first reason stands.
    with pytest.raises(PolicyError, match=said):
        call(policy)
    assert len(policy.failures) == 1


def test_a_process_killed_between_calls_is_noticed_without_a_call(start: Start) -> None:
    policy = start("follows")
    call(policy)
    os.kill(policy.pid, signal.SIGKILL)
    give_up = time.monotonic() + 5.0
    while policy.failure is None:
        assert time.monotonic() < give_up
        time.sleep(0.001)
    assert "SIGKILL; the kernel does that when memory runs out" in policy.failure.message
    with pytest.raises(PolicyError, match="SIGKILL"):
        call(policy)
    assert len(policy.failures) == 1


def test_a_restart_serves_on_and_is_counted(start: Start, tmp_path: Path) -> None:
    policy = start(f"once={tmp_path / 'failed'},kills-itself@2", restarts=1)
    call(policy)
    first = policy.pid
    with pytest.raises(PolicyError, match="SIGKILL"):
        call(policy)
    assert policy.failure is not None
    assert not policy.spent
    with pytest.raises(PolicyError, match="SIGKILL"):
        call(policy)
    policy.revive()
    assert call(policy).valid
    policy.revive()  # nothing to do
    assert (policy.restarts, policy.failure) == (1, None)
    assert policy.pid != first
    assert not alive(first)
    os.kill(policy.pid, signal.SIGKILL)
    with pytest.raises(PolicyError, match="SIGKILL"):
        call(policy)
    assert policy.spent
    with pytest.raises(PolicyError, match="SIGKILL"):
        policy.revive()
    assert [failure.kind for failure in policy.failures] == ["policy_died", "policy_died"]


@pytest.mark.parametrize(
    ("plan", "error", "name"), [("raises", PolicyError, "ArithmeticError"), ("refuses", InputError, "")]
)
def test_an_exception_over_there_is_raised_here_and_ends_nothing(
    start: Start, plan: str, error: type[Exception], name: str
) -> None:
    policy = start(f"{plan}@1")
    with pytest.raises(error) as raised:
        call(policy)
    assert str(raised.value) in ("the device fell off", "no norm tag 'x'")
    assert getattr(raised.value, "kind", "") == name
    assert call(policy).valid
    assert policy.failure is None


def test_only_a_policy_on_a_gpu_is_warmed_up(start: Start) -> None:
    asked = (IMAGES, "reach", np.zeros(6), "tag")
    assert start("follows").warmup(*asked) == 0.0
    warmed = start("on-a-gpu")
    assert warmed.warmup(*asked) == 1.25
    assert call(warmed).valid
    with pytest.raises(InputError, match="could not be recorded"):
        start("cannot-warm-up").warmup(*asked)


def test_a_checkpoint_that_does_not_load_raises_what_loading_raised(start: Start) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        start("broken").wait_ready()
    with pytest.raises(PolicyError, match="ended with exit code 7"):
        start("dies-loading").wait_ready()
    with pytest.raises(PolicyError, match=r"loading took the policy longer than 0.3 s"):
        start("hangs-loading", load_limit_s=0.3).wait_ready()


def test_images_that_do_not_fit_are_refused_before_anything_is_sent(start: Start) -> None:
    policy = start("follows")
    with pytest.raises(ValueError, match="do not fit into"):
        policy.predict([np.zeros((300, 300, 3), np.uint8)], "reach", np.zeros(6))
    assert call(policy).valid


def test_close_ends_a_call_under_way_without_counting_a_failure(start: Start) -> None:
    policy = start("hangs@2")
    call(policy)
    raised: list[Exception] = []

    def wait() -> None:
        try:
            call(policy)
        except PolicyError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    begin = time.monotonic()
    policy.close()
    thread.join(10.0)
    assert not thread.is_alive()
    assert "was closed" in str(raised[0])
    assert policy.failures == []
    assert time.monotonic() - begin < 10.0


def test_a_missing_program_is_an_error_of_its_own() -> None:
    with pytest.raises(PolicyError, match="could not be started"):
        PolicyProcess(PolicyProcessSettings("x"), 100, command=("/nonexistent/python",))


@pytest.mark.parametrize("how", ["killed", "exits"])
def test_no_process_outlives_the_control_process(how: str) -> None:
    code = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from molmoact2_edge.runtime.policy_client import PolicyProcess, PolicyProcessSettings
policy = PolicyProcess(PolicyProcessSettings("hangs"), 1000, command={CHILD!r})
policy.wait_ready()
print(policy.pid, flush=True)
{"time.sleep(60)" if how == "killed" else "os._exit(0)"}
"""
    control = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert control.stdout is not None
    child = int(control.stdout.readline())
    if how == "killed":
        control.kill()
    control.wait(10.0)
    control.stdout.close()
    give_up = time.monotonic() + 5.0
    while alive(child) and not is_zombie(child):
        assert time.monotonic() < give_up, "the policy's process outlived its parent"
        time.sleep(0.01)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended, and only waits for whoever inherited it to say so."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].startswith("Z")
    except FileNotFoundError:
        return True


def test_the_control_process_needs_no_torch() -> None:
    code = (
        "import sys\nimport molmoact2_edge.runtime, molmoact2_edge.runtime.policy_client\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_process_starts_without_a_word(reference: Path) -> None:
    code = (
        "from molmoact2_edge.runtime.policy_client import PolicyProcess, PolicyProcessSettings\n"
        f"policy = PolicyProcess(PolicyProcessSettings({str(reference / 'tiny-base')!r}, 'cpu'), 1000)\n"
        "policy.wait_ready()\npolicy.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
