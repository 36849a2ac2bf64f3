"""The layer that records and replays: what it asks of CUDA, in which order, and what it says when CUDA refuses.

CUDA itself is played by objects that write down what they are asked; tests/python/static/test_cuda_graph.py asks the
real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from molmoact2_edge.errors import CaptureError
from molmoact2_edge.model import execution as module
from molmoact2_edge.model.execution import GraphExecution
from molmoact2_edge.model.static_network import Lap

DEVICE = torch.device("cuda", 0)


class PlayedCuda:
    """Stands for ``torch.cuda``."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.recording = False
        self.refuses = False
        self.pools = 0

    def synchronize(self) -> None:
        self.asked.append("wait for the device")

    def get_device_name(self, device: torch.device) -> str:
        return "played GPU"

    def graph_pool_handle(self) -> str:
        self.pools += 1
        return f"pool {self.pools}"

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        yield

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, graph: object, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert (pool, capture_error_mode) == (f"pool {self.pools}", "thread_local")
        self.asked.append("begin recording")
        self.recording = True
        failed = False
        try:
            yield
            if self.refuses:
                raise RuntimeError("operation not permitted when stream is capturing")
        except BaseException:
            failed = True
            raise
        finally:
            self.recording = False
            self.asked.append("end recording")
            if failed:
                # As torch does: the end of the recording raises over what happened in it.
                raise RuntimeError("operation failed due to a previous error during capture")

    def Stream(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(synchronize=lambda: self.asked.append("wait for the stream"))

    def CUDAGraph(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(replay=lambda: self.asked.append("replay"))

    def Event(self, *, enable_timing: bool, external: bool) -> SimpleNamespace:  # noqa: N802
        assert enable_timing
        assert external
        assert self.recording, "laps belong into the recording only"
        return SimpleNamespace(record=lambda: self.asked.append("event"))


class Watch:
    """Takes the laps that a graph passed."""

    def __init__(self) -> None:
        self.laps: list[str] = []

    def passed(self, marks: Any) -> None:
        self.laps += [name for name, _ in marks]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> PlayedCuda:
    played = PlayedCuda()
    monkeypatch.setattr(module, "torch", SimpleNamespace(cuda=played, __version__="2.13"))
    return played


def test_a_stage_is_warmed_up_recorded_once_and_replayed_ever_after(cuda: PlayedCuda) -> None:
    execution = GraphExecution(DEVICE)
    cuda.asked.clear()
    runs: list[bool] = []

    def stage(lap: Lap) -> None:
        runs.append(cuda.recording)
        lap("vision")
        lap("flow")

    watch: Any = Watch()
    with execution.session():
        execution.run("a", stage, watch)
    assert runs == [False, False, True]
    once = ["wait for the stream", "begin recording", "event", "event", "end recording"]
    assert cuda.asked == [*once, "replay"]
    assert watch.laps == ["vision", "flow"]
    execution.run("a", stage, watch)
    assert runs == [False, False, True]
    assert cuda.asked == [*once, "replay", "replay"]
    assert watch.laps == ["vision", "flow"] * 2
    execution.run("b", stage, watch)
    assert len(runs) == 6
    execution.forget()
    execution.run("a", stage, watch)
    assert len(runs) == 9


def test_attention_is_looked_at_while_warming_up(cuda: PlayedCuda) -> None:
    execution = GraphExecution(DEVICE)

    def stage(lap: Lap) -> None:
        x = torch.zeros(1, 1, 4, 8)
        torch.nn.functional.scaled_dot_product_attention(x, x, x)

    watch: Any = Watch()
    if torch.cuda.is_available():
        pytest.skip("the machine has a GPU; test_cuda_graph.py looks at it")
    execution.run("a", stage, watch)
    assert execution.attention == {"flash"}


@pytest.mark.parametrize("when", ["warming up", "recording", "ending"])
def test_a_refusal_is_an_error_and_nothing_else_runs(cuda: PlayedCuda, when: str) -> None:
    execution = GraphExecution(DEVICE)
    cuda.refuses = when == "ending"

    def stage(lap: Lap) -> None:
        if when == "warming up" or (when == "recording" and cuda.recording):
            raise RuntimeError("operation not permitted when stream is capturing")

    watch: Any = Watch()
    with pytest.raises(CaptureError, match="not permitted") as caught:
        execution.run(("feed", 4), stage, watch)
    assert "('feed', 4)" in str(caught.value)
    assert "played GPU" in str(caught.value)
    assert "execution='static'" in str(caught.value)
    assert "replay" not in cuda.asked
    assert watch.laps == []
    cuda.refuses = False
    execution.run("other", lambda lap: None, watch)
    assert cuda.asked[-1] == "replay"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operation not permitted"),
        TypeError("x must be on a CUDA device"),
        ValueError("x must be bfloat16"),
        BufferError("a tensor with a conjugate bit cannot be exported"),
        ZeroDivisionError("division by zero"),
        MemoryError("out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("recording", [False, True], ids=["warming up", "recording"])
def test_whatever_fails_is_named_as_the_cause(cuda: PlayedCuda, error: Exception, recording: bool) -> None:
    execution = GraphExecution(DEVICE)

    def stage(lap: Lap) -> None:
        if cuda.recording == recording:
            raise error

    watch: Any = Watch()
    with pytest.raises(CaptureError) as caught:
        execution.run("a", stage, watch)
    assert f": {type(error).__name__}: {error}\n" in str(caught.value)
    assert error in (caught.value.__cause__, getattr(caught.value.__cause__, "__context__", None))
    assert "replay" not in cuda.asked
    assert cuda.pools == 2  # the failed recording's is left to it
    execution.run("a", lambda lap: None, watch)
    assert cuda.asked[-1] == "replay"


def test_the_cause_is_the_stages_also_where_the_caller_handles_an_error_of_his_own(cuda: PlayedCuda) -> None:
    execution = GraphExecution(DEVICE)

    def stage(lap: Lap) -> None:
        if cuda.recording:
            raise BufferError("no room for the capsule")

    watch: Any = Watch()
    try:
        raise KeyError("left elbow")
    except KeyError:
        with pytest.raises(CaptureError, match="BufferError: no room for the capsule"):
            execution.run("a", stage, watch)


@pytest.mark.parametrize("recording", [False, True], ids=["warming up", "recording"])
def test_who_ends_the_process_is_not_held_up(cuda: PlayedCuda, recording: bool) -> None:
    execution = GraphExecution(DEVICE)

    def stage(lap: Lap) -> None:
        if cuda.recording == recording:
            raise KeyboardInterrupt

    watch: Any = Watch()
    with pytest.raises(KeyboardInterrupt):
        execution.run("a", stage, watch)
    assert cuda.pools == 2
