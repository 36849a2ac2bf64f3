"""That a stage can be recorded at all: the same operations whatever the inputs, none that a recording forbids, and no
memory that outlives it. Sizes and devices are checked at release shapes on tensors without contents."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_network import complete_config
from static.replay import ReplayedExecution, storage, tensors_in
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from molmoact2_edge import DepthCache, Policy
from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model import patches, static_network
from molmoact2_edge.model.execution import Stage
from molmoact2_edge.model.integrator import FlowSetting, TorchIntegrator
from molmoact2_edge.model.layout import random_source
from molmoact2_edge.model.molmoact2 import MolmoAct2
from molmoact2_edge.model.operators import TorchOperators
from molmoact2_edge.model.static_network import (
    CallBuffers,
    CameraBuffers,
    StaticCall,
    bucket_of,
)
from molmoact2_edge.timing import Stopwatch

Replayed = Callable[[str], tuple[Policy, ReplayedExecution]]

RNG = np.random.default_rng(3)
FRAMES = [RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8) for _ in range(4)]
STATE = np.linspace(-20, 30, 6, dtype=np.float32)

aten = torch.ops.aten
# What waits for the device, or has a size that depends on contents.
FORBIDDEN = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.item,
    aten.equal,
    aten.nonzero,
    aten.nonzero_numpy,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.bincount,
    aten._assert_async,
    aten._pin_memory,
}


def described(value: Any) -> Hashable:
    """What a recording keeps of an argument: numbers as they are, of tensors all but the contents."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.stride(), value.dtype, value.device, value.storage_offset())
    if isinstance(value, list | tuple):
        return tuple(described(one) for one in value)
    if isinstance(value, dict):
        return tuple((name, described(one)) for name, one in sorted(value.items()))
    return value if isinstance(value, Hashable) else repr(value)


class Watcher(TorchDispatchMode):
    """Writes down every operation, and which results are still there later."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Hashable] = []
        self.forbidden: list[str] = []
        self.results: list[weakref.ref[Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations.append((str(func), described(args), described(kwargs)))
        indices = args[1] if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) else ()
        if func.overloadpacket in FORBIDDEN or any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in indices
        ):
            self.forbidden.append(str(func))
        known = {storage(tensor) for tensor in tensors_in((args, kwargs))}
        result = func(*args, **kwargs)
        self.results += [
            weakref.ref(tensor.untyped_storage())
            for tensor in tensors_in(result)
            if storage(tensor) not in known
        ]
        return result


# Runs of a stage that are watched; a depth map has many.
_WATCHED = 3


@dataclass
class WatchedExecution:
    """Runs stages as they are under a :class:`Watcher`, after one run to warm up."""

    name: str = "watched"
    attention: frozenset[str] = frozenset()
    seen: dict[Hashable, list[Watcher]] = field(default_factory=dict)

    def session(self) -> AbstractContextManager[object]:
        return nullcontext()

    def run(self, key: Hashable, stage: Stage, watch: Stopwatch) -> None:
        watchers = self.seen.setdefault(key, [])
        if not watchers:
            stage(lambda name: None)
        if len(watchers) == _WATCHED:
            stage(lambda name: None)
            return
        with Watcher() as watcher:
            stage(lambda name: None)
        watchers.append(watcher)

    def forget(self) -> None:
        pass


@pytest.fixture(scope="module")
def watched(reference: Path) -> WatchedExecution:
    """All stages of Think calls that differ in everything that may differ within one bucket."""
    loaded = Policy.from_pretrained(
        reference / "tiny-think", device="cpu", dtype="float32", execution="static"
    )
    execution = WatchedExecution()
    policy = Policy(loaded.model, loaded.processor, execution=execution)
    for think in (False, True):
        cache: DepthCache | None = None
        for seed, task in enumerate(["reach", "reach it", "reaching"]):
            options: dict[str, Any] = {
                "task": task,
                "norm_tag": "so101_tiny",
                "seed": seed,
                "think": think,
                "depth_cache": cache,
            }
            cache = policy.predict(FRAMES[seed : seed + 2], state=STATE + seed, **options).depth_cache
            policy.predict(None, state=STATE - seed, reuse_images=True, **options)
    return execution


def test_the_cases_reach_every_kind_of_stage(watched: WatchedExecution) -> None:
    kinds = {str(key[0]) for key in watched.seen if isinstance(key, tuple)}
    assert kinds == {"observe", "refresh", "feed", "choose", "act"}
    seldom = [key for key, runs in watched.seen.items() if len(runs) == 1]
    assert all(key[0] == "feed" for key in seldom if isinstance(key, tuple)), seldom


def test_a_stage_is_the_same_operations_whatever_the_inputs(watched: WatchedExecution) -> None:
    for key, (first, *others) in watched.seen.items():
        assert len(first.operations) > 2, key
        for other in others:
            assert other.operations == first.operations, key


def test_no_operation_waits_or_depends_on_contents(watched: WatchedExecution) -> None:
    assert not [(key, run.forbidden) for key, runs in watched.seen.items() for run in runs if run.forbidden]


def test_nothing_that_a_stage_makes_outlives_it(watched: WatchedExecution) -> None:
    """Recordings share memory: what lived on would be overwritten by the next one."""
    for key, runs in watched.seen.items():
        made = [result for run in runs for result in run.results]
        assert made, key
        assert not [result for result in made if result() is not None], key


def test_the_watcher_sees_what_it_forbids() -> None:
    x = torch.arange(4.0)
    with Watcher() as watcher:
        kept = x + 1
        x[x > 1]
        bool(x.sum() > 1)
        x.nonzero()
    assert len(watcher.forbidden) >= 3
    assert kept is not None
    assert any(result() is not None for result in watcher.results)


# Release shapes, on a device that is not there -------------------------------------------------------------------

CUDA = torch.device("cuda", 0)


class DeviceInputs:
    """The device half of staged inputs: there is no host to stage from."""

    def __init__(self, fields: dict[str, tuple[tuple[int, ...], torch.dtype]], device: torch.device) -> None:
        self.tensors = {
            name: torch.zeros(shape, dtype=dtype, device=device) for name, (shape, dtype) in fields.items()
        }


class WithoutDriver(TorchFunctionMode):
    """Lets tensors without contents stand on CUDA where torch was built without it.

    A few calls ask the driver for the current device although nothing is computed: indexing, ``copy_``, ``to``, ``~``.
    They are given here by operations that do not.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__getitem__:
            return self._part(*args)
        if func is Tensor.__setitem__:
            return self._part(*args[:2]).zero_().add_(args[2])
        if func is Tensor.__invert__:
            return args[0].logical_not()
        if func is Tensor.copy_:
            assert args[0].shape == args[1].shape
            return args[0].zero_().add_(args[1])
        if func is Tensor.to and isinstance(args[1], torch.device) and args[0].device != args[1]:
            return torch.empty(args[0].shape, dtype=args[0].dtype, device=args[1])
        return func(*args, **kwargs)

    @staticmethod
    def _part(tensor: Tensor, index: Any) -> Tensor:
        steps = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in [step for step in steps if not isinstance(step, Tensor)]:
            place = next(i for i, step in enumerate(steps) if step is Ellipsis)
            taken = sum(step is not None for step in steps) - 1
            steps[place : place + 1] = [slice(None)] * (tensor.ndim - taken)
        dim = 0
        for step in steps:
            if step is None:
                tensor = tensor.unsqueeze(dim)
            elif isinstance(step, int):
                tensor = tensor.select(dim, step)
                continue
            elif isinstance(step, slice):
                tensor = aten.slice.Tensor(tensor, dim, step.start or 0, step.stop, step.step or 1)
            else:
                tensor = aten.index.Tensor(tensor, [None] * dim + [step])
            dim += 1
        return tensor


class OneDevice(TorchDispatchMode):
    """Notes results that are not on the GPU, and results in float64: neither belongs in a recording."""

    def __init__(self) -> None:
        super().__init__()
        self.astray: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            if tensor.device.type != "cuda" or tensor.dtype == torch.float64:
                self.astray.append(f"{func} gives {tensor.dtype} on {tensor.device}")
        return result


@contextmanager
def release_call(
    reference: Path, monkeypatch: pytest.MonkeyPatch, *, cameras: int, think: bool, text_tokens: int
) -> Iterator[StaticCall]:
    """A static call of the released SO-101 model in bf16 on CUDA, all of whose tensors have no contents."""
    values = json.loads((reference / "shapes" / "molmoact2-so101.json").read_text())
    config = ModelConfig.from_json(complete_config(values, layers=2, think=think))
    per_image = 14 * 14
    block = 1 + per_image + 1
    prefix = 1 + cameras * block
    image_tokens = np.ones(prefix, np.bool_)
    image_tokens[0] = False
    patch_tokens = image_tokens.copy()
    patch_tokens[1::block] = patch_tokens[block::block] = False
    pooling = RNG.integers(-1, cameras * 729, (cameras * per_image, 4))
    bucket = bucket_of(prefix + text_tokens)
    span = bucket_of(bucket + 132 + 104) if think else bucket
    for module in (static_network, patches):
        monkeypatch.setattr(module, "StagedInputs", DeviceInputs)
    with FakeTensorMode(allow_non_fake_inputs=True), WithoutDriver(), torch.inference_mode():
        source = random_source(lambda part, rows: None, dtype=torch.bfloat16, device=CUDA)
        model = MolmoAct2(source, config, CUDA)
        buffers = CallBuffers(model, -(-span // 256) * 256, 30, 104)
        pixels = patches.HostPatchBuffers((cameras, 729, 588), CUDA)
        settings = CameraBuffers(model, 0, pixels, pooling, image_tokens, patch_tokens)
        assert model.expert is not None
        model.expert.schedule(10)
        yield StaticCall(
            model,
            TorchOperators(config.text_config, model.decoder.rope),
            TorchIntegrator(model),
            buffers,
            settings,
            (27, 27),
            bucket=bucket,
            span=span,
        )


@pytest.mark.parametrize(
    ("cameras", "think", "text_tokens"), [(1, False, 90), (2, False, 93), (3, False, 111), (2, True, 96)]
)
def test_release_shapes_run_on_one_device_in_one_precision(
    reference: Path, monkeypatch: pytest.MonkeyPatch, cameras: int, think: bool, text_tokens: int
) -> None:
    with release_call(reference, monkeypatch, cameras=cameras, think=think, text_tokens=text_tokens) as call:
        stages: list[Callable[[], object]] = [
            lambda: call.observe(_no_lap, state=False),
            lambda: call.observe(_no_lap, state=True),
            lambda: call.refresh(_no_lap, state=False),
            lambda: call.act(_no_lap, FlowSetting(30, 10, 6)),
            lambda: call.choose(_no_lap),
        ]
        if think:
            stages += [lambda n=n: call.feed(_no_lap, n, (7, 135)) for n in (1, 4, 16, 32, 64, 104)]  # type: ignore[misc]
        for stage in stages:
            stage()  # what is computed once exists from here on
            with OneDevice() as watcher:
                stage()
            assert watcher.astray == []


def test_tensors_without_contents_show_a_wait() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        bool(torch.zeros(3, device=CUDA).any())


def _no_lap(stage: str) -> None:
    pass
