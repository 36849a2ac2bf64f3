"""What a CUDA graph does, on the CPU: record the operations of a stage once, then only ever repeat them.

A replay runs the recorded operations on the recorded tensors with the recorded numbers, and writes each result into the
memory that it had at the recording. Whatever Python would decide anew (a length, an index, a branch) stays as it was,
so that a stage which depends on anything but the contents of its static tensors gives wrong results here too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from molmoact2_edge.model.execution import Stage
from molmoact2_edge.timing import Stopwatch


@dataclass
class Operation:
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    fresh: list[tuple[int, Tensor]]
    """Outputs, by place, that have memory of their own."""

    def again(self) -> None:
        results = tensors_in(self.func(*self.args, **self.kwargs))
        for place, recorded in self.fresh:
            recorded.copy_(results[place])


def tensors_in(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = {storage(tensor) for tensor in tensors_in((args, kwargs))}
        result = func(*args, **kwargs)
        fresh = [(i, out) for i, out in enumerate(tensors_in(result)) if storage(out) not in known]
        self.operations.append(Operation(func, args, kwargs, fresh))
        return result


@dataclass
class ReplayedExecution:
    """Records a stage when its key first comes, after one run to warm up; afterwards Python is out of the loop."""

    name: str = "replayed"
    attention: frozenset[str] = frozenset()
    recorded: dict[Hashable, tuple[list[Operation], list[str]]] = field(default_factory=dict)
    replays: Counter[Hashable] = field(default_factory=Counter)

    def session(self) -> AbstractContextManager[object]:
        return nullcontext()

    def run(self, key: Hashable, stage: Stage, watch: Stopwatch) -> None:
        if key not in self.recorded:
            stage(lambda name: None)
            laps: list[str] = []
            with Recorder() as recorder:
                stage(laps.append)
            self.recorded[key] = (recorder.operations, laps)
        operations, laps = self.recorded[key]
        # Garbage where the last replay left its results: a replay may not read what it has not written.
        for operation in operations:
            for _, out in operation.fresh:
                out.fill_(float("nan") if out.is_floating_point() else 1)
        for operation in operations:
            operation.again()
        for lap in laps:
            watch.lap(lap)
        self.replays[key] += 1

    def forget(self) -> None:
        self.recorded.clear()


def fill_with_nan(tensor: Tensor) -> None:
    with torch.inference_mode():
        tensor.fill_(float("nan"))
