"""How a static stage is run: as it is, or recorded once as a CUDA graph and replayed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from molmoact2_edge.errors import CaptureError
from molmoact2_edge.model.attention import AttentionRecorder, fused_only
from molmoact2_edge.model.static_network import Lap
from molmoact2_edge.timing import Stopwatch

Stage = Callable[[Lap], object]

# Before a recording a stage runs this often: libraries then have chosen their kernels and have their workspaces, and
# whatever is computed once per process exists.
_WARM_UP_RUNS = 2

# A recording switches torch's choice of attention kernels, which is one setting for the process. And while one is under
# way nobody may wait for the whole device: whoever is about to, as every recording is, holds this.
recording = threading.Lock()


class Execution(Protocol):
    """Runs stages one after the other."""

    @property
    def name(self) -> str:
        """How stages are run, for ``backends``."""
        ...

    def session(self) -> AbstractContextManager[object]:
        """Make this execution's device and stream the current ones."""
        ...

    def run(self, key: Hashable, stage: Stage, watch: Stopwatch) -> None:
        """Queue a stage. Two calls with one ``key`` are the same kernels on the same addresses."""
        ...

    def forget(self) -> None:
        """The memory of all stages so far is going away."""
        ...

    @property
    def attention(self) -> frozenset[str]:
        """The kernels that attention was proved to run on."""
        ...


class DirectExecution:
    """Calls the stages as they are: the same kernels in the same order, one by one."""

    name = "static"
    attention: frozenset[str] = frozenset()

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def session(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def run(self, key: Hashable, stage: Stage, watch: Stopwatch) -> None:
        stage(watch.lap)

    def forget(self) -> None:
        pass


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    laps: tuple[tuple[str, torch.cuda.Event], ...]
    stage: Stage
    """Holds on to the tensors whose addresses the graph knows."""


class GraphExecution:
    """Records each stage as a CUDA graph when it first comes, and replays it from then on.

    A stream of its own: the workspaces that cuBLAS keeps per stream are baked into the graphs, so that two policies
    on one stream would write into each other's. Recordings share one memory pool, which is right because nothing
    that lives in it outlasts a replay, and replays follow one another on that stream.

    A recording tolerates CUDA calls of other threads ("thread_local"). When it fails, :class:`CaptureError` says why;
    nothing else is run in its place.
    """

    name = "cuda graph"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with recording, torch.cuda.device(device):
            # Weights may still be on their way on another stream.
            torch.cuda.synchronize()
            self._stream = torch.cuda.Stream()
            self._pool = torch.cuda.graph_pool_handle()
        self._recordings: dict[Hashable, _Recording] = {}
        self._attention: set[str] = set()

    @contextmanager
    def session(self) -> Iterator[None]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            yield

    @property
    def attention(self) -> frozenset[str]:
        return frozenset(self._attention)

    def run(self, key: Hashable, stage: Stage, watch: Stopwatch) -> None:
        recorded = self._recordings.get(key)
        if recorded is None:
            with recording:
                recorded = self._record(key, stage)
            self._recordings[key] = recorded
        recorded.graph.replay()
        watch.passed(recorded.laps)

    def forget(self) -> None:
        self._stream.synchronize()
        self._recordings.clear()

    def _record(self, key: Hashable, stage: Stage) -> _Recording:
        graph = torch.cuda.CUDAGraph()
        laps: list[tuple[str, torch.cuda.Event]] = []

        def lap(name: str) -> None:
            # External: the replay records it, and the host may read its time.
            event = torch.cuda.Event(enable_timing=True, external=True)
            event.record()
            laps.append((name, event))

        handled = sys.exc_info()[1]  # by whoever calls; no part of what may go wrong here
        try:
            with fused_only() as recorder:
                for _ in range(_WARM_UP_RUNS):
                    stage(_no_lap)
                self._stream.synchronize()
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    stage(lap)
        except BaseException as error:
            # The allocator may still count the failed recording as under way in its pool.
            self._pool = torch.cuda.graph_pool_handle()
            cause = _first(error, handled)
            if not isinstance(cause, Exception):
                raise cause from None  # somebody wants the process to end
            # Of any kind: torch refuses with RuntimeError, DLPack with BufferError, a kernel's door with ValueError.
            raise CaptureError(
                f"could not record {key!r} as a CUDA graph on {torch.cuda.get_device_name(self._device)} with torch "
                f"{torch.__version__}: {type(cause).__name__}: {cause}\nRecording needs torch 2.8 or newer. Load the "
                "policy with execution='static' to run the same kernels one by one, slower, or with execution='eager' "
                "for torch"
            ) from error
        self._note(recorder)
        return _Recording(graph, tuple(laps), stage)

    def _note(self, recorder: AttentionRecorder) -> None:
        self._attention |= recorder.chosen


def _first(error: BaseException, handled: BaseException | None) -> BaseException:
    """Return what went wrong first: the end of a recording that failed raises on top of it, and says nothing.

    Python hangs what the caller is ``handled``-ing at the end of the same chain.
    """
    while error.__context__ is not None and error.__context__ is not handled:
        error = error.__context__
    return error


def _no_lap(stage: str) -> None:
    pass
