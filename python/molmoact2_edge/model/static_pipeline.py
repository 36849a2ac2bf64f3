"""The network over memory that never moves, stage by stage through an :class:`Execution`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from molmoact2_edge.model.decoding import Decoding
from molmoact2_edge.model.execution import Execution, Stage
from molmoact2_edge.model.integrator import FlowSetting, Integrator
from molmoact2_edge.model.masks import cross_attention_mask, depth_tokens
from molmoact2_edge.model.molmoact2 import MolmoAct2
from molmoact2_edge.model.operators import Operators
from molmoact2_edge.model.patches import PatchSource
from molmoact2_edge.model.pipeline import CallPlan, FlowInputs, Intermediates, code_rows, prefix_length
from molmoact2_edge.model.staging import FetchedOutput
from molmoact2_edge.model.static_network import (
    CallBuffers,
    CameraBuffers,
    Lap,
    StaticCall,
    bucket_of,
)
from molmoact2_edge.processor import ImageInputs, Prompt
from molmoact2_edge.timing import Stopwatch
from molmoact2_edge.types import BoolArray, FloatArray, IntArray

# The cache grows in steps of this many positions; whenever it does, everything is recorded anew.
_CAPACITY_STEP = 256
# Runs of tokens behind a prompt are padded to one of these, or to the longest that the depth map needs. The weights
# are read once a run, however long, so that few lengths cost little.
_RUN_LENGTHS = (1, 4, 16, 32, 64)
_LONGEST_MULTIPLE = 8
# Camera settings (frames, sizes, prompt layouts) that are kept ready. A robot has one.
_MOST_CAMERA_SETTINGS = 4


class CallKey(NamedTuple):
    """What two calls must have in common to be the same kernels on the same addresses."""

    cameras: int
    bucket: int
    span: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the host reads of a call."""

    codes: FetchedOutput
    token: FetchedOutput
    chunk: FetchedOutput


class StaticPipeline:
    """Keeps the static memory, grows it where a call needs more, and turns calls into stages.

    A call without decoding is one stage, so that it becomes one graph: vision, prefill, context, flow. With decoding
    in between it is three kinds: the prompt, runs of tokens, and the flow.
    """

    def __init__(
        self,
        model: MolmoAct2,
        patch_grid: tuple[int, int],
        patches: PatchSource,
        operators: Operators,
        integrator: Integrator,
        execution: Execution,
    ) -> None:
        self._model = model
        self._patch_grid = patch_grid
        self._patches = patches
        self._operators = operators
        self._integrator = integrator
        self._execution = execution
        self._buffers: CallBuffers | None = None
        self._cameras: dict[Hashable, CameraBuffers] = {}
        self._calls: dict[CallKey, StaticCall] = {}
        self._fetched: Fetched | None = None
        # What is under way: the cameras of the last observation, and the call.
        self._seen: CameraBuffers | None = None
        self._call: StaticCall | None = None
        self._call_key = CallKey(0, 0, 0)
        self._prompt_length = 0
        self._pending: Callable[[Lap], None] | None = None
        self._pending_key: tuple[Hashable, ...] = ()
        self._decoding: StaticDecoding | None = None
        self._watch: Stopwatch | None = None

    @property
    def backends(self) -> dict[str, str]:
        buckets = sorted({key.bucket for key in tuple(self._calls)})
        ready = ", ".join(map(str, buckets)) or "none yet"
        found = {
            **(self._integrator.backends if self._model.expert is not None else {}),
            "call": f"{self._execution.name} (buckets: {ready})",
            "pixels": self._patches.name,
            "decoder": self._operators.name,
        }
        if self._execution.attention:
            found["attention"] = ", ".join(sorted(self._execution.attention))
        return found

    @property
    def reads_frames(self) -> bool:
        return self._patches.reads_frames

    def session(self) -> AbstractContextManager[object]:
        return self._execution.session()

    # Prompt ------------------------------------------------------------------------------------------------------

    def observe(self, images: ImageInputs, prompt: Prompt, plan: CallPlan, watch: Stopwatch) -> None:
        self._seen = None  # until the cache holds these images
        cameras = self._cameras_of(images, prompt)
        self._begin(cameras, prompt, plan, watch)
        cameras.patches.send(images)
        assert self._call is not None
        self._pending = partial(self._call.observe, state=plan.state)
        self._pending_key = ("observe", plan.state)
        self._seen = cameras

    def refresh(self, prompt: Prompt, plan: CallPlan, watch: Stopwatch) -> None:
        assert self._seen is not None
        self._begin(self._seen, prompt, plan, watch)
        assert self._call is not None
        self._pending = partial(self._call.refresh, state=plan.state)
        self._pending_key = ("refresh", plan.state)

    def _begin(self, cameras: CameraBuffers, prompt: Prompt, plan: CallPlan, watch: Stopwatch) -> None:
        length = len(prompt.input_ids)
        bucket = bucket_of(length)
        # A run may be padded beyond the room by less than the longest run.
        span = bucket_of(bucket + plan.room + self._longest_run()) if plan.room else bucket
        buffers = self._buffers_for(span, plan.horizon)
        key = CallKey(cameras.number, bucket, span)
        if key not in self._calls:
            self._calls[key] = StaticCall(
                self._model,
                self._operators,
                self._integrator,
                buffers,
                cameras,
                self._patch_grid,
                bucket=bucket,
                span=span,
            )
        self._call, self._call_key = self._calls[key], key
        self._prompt_length = length
        self._decoding = None
        self._watch = watch
        buffers.prompt.send(token_ids=prompt.input_ids, last=np.array([length - 1], np.int32))

    def _cameras_of(self, images: ImageInputs, prompt: Prompt) -> CameraBuffers:
        prefix = prefix_length(prompt)
        pooling = images.batched_pooling()
        image_tokens = prompt.token_type_ids[:prefix]
        patch_tokens = prompt.input_ids[:prefix] == self._model.config.image_patch_id
        key = (self._patches.key(images), pooling.tobytes(), image_tokens.tobytes(), patch_tokens.tobytes())
        if key not in self._cameras:
            if len(self._cameras) == _MOST_CAMERA_SETTINGS:
                self._forget()
                self._cameras.clear()
            self._cameras[key] = CameraBuffers(
                self._model,
                len(self._cameras),
                self._patches.buffers(images, self._model.device),
                pooling,
                image_tokens,
                patch_tokens,
            )
        return self._cameras[key]

    def _buffers_for(self, span: int, horizon: int) -> CallBuffers:
        before = self._buffers
        if before is not None and before.capacity >= span and before.horizon >= horizon:
            return before
        capacity = -(-span // _CAPACITY_STEP) * _CAPACITY_STEP
        if before is not None:
            capacity, horizon = max(capacity, before.capacity), max(horizon, before.horizon)
        self._forget()
        self._buffers = CallBuffers(self._model, capacity, horizon, self._longest_run())
        if before is not None:
            # The images of the last observation stay known.
            for new, old in zip(
                self._buffers.cache.rows(0, before.capacity),
                before.cache.rows(0, before.capacity),
                strict=True,
            ):
                new.copy_(old)
        self._fetched = Fetched(
            FetchedOutput(self._buffers.codes),
            FetchedOutput(self._buffers.token),
            FetchedOutput(self._buffers.chunk),
        )
        return self._buffers

    def _forget(self) -> None:
        self._execution.forget()
        self._calls.clear()
        self._pending = None

    def _longest_run(self) -> int:
        if not self._model.config.enable_depth_reasoning:
            return 1
        cells = self._model.config.num_depth_codes + 2  # and the markers around them
        return -(-cells // _LONGEST_MULTIPLE) * _LONGEST_MULTIPLE

    # Stages ------------------------------------------------------------------------------------------------------

    def run(self, name: tuple[Hashable, ...], stage: Stage) -> None:
        """Queue a stage of the present call."""
        assert self._watch is not None
        self._execution.run((*name, *self._call_key), stage, self._watch)

    def _settle_prompt(self) -> None:
        if self._pending is not None:
            stage, self._pending = self._pending, None
            self.run(self._pending_key, stage)

    def decoding(self) -> Decoding:
        self._settle_prompt()
        if self._decoding is None:
            assert self._buffers is not None
            assert self._fetched is not None
            assert self._call is not None
            longest = self._buffers.longest_run
            self._decoding = StaticDecoding(
                self,
                self._buffers,
                self._fetched,
                self._call,
                self._prompt_length,
                (*(length for length in _RUN_LENGTHS if length < longest), longest),
                code_rows(self._model.config),
            )
        return self._decoding

    def act(self, token_ids: IntArray, inputs: FlowInputs, kept: Intermediates | None = None) -> FloatArray:
        assert self._buffers is not None
        assert self._call is not None
        assert self._fetched is not None
        assert self._watch is not None
        config = self._model.config
        horizon, columns = inputs.noise.shape
        valid = cross_attention_mask(token_ids, config)
        no_guide = np.zeros((0, columns), np.float32)
        self._buffers.flow.send(
            valid=valid,
            depth=depth_tokens(token_ids, config),
            noise=inputs.noise[None],
            guide_actions=(no_guide if inputs.guide_actions is None else inputs.guide_actions)[None],
            guide_weights=(no_guide[:, 0] if inputs.guide_weights is None else inputs.guide_weights)[None],
        )
        self._integrator.prepare(inputs.setting)
        if kept is not None:
            self._settle_prompt()
            self._act_and_keep(self._call, inputs.setting, valid, kept)
        elif self._pending is not None:
            prompt, self._pending = self._pending, None
            stage = partial(_both, prompt, partial(self._call.act, setting=inputs.setting))
            self.run((*self._pending_key, "act", inputs.setting), stage)
        else:
            self.run(("act", inputs.setting), partial(self._call.act, setting=inputs.setting))
        chunk: FloatArray = self._fetched.chunk.fetch(horizon).astype(np.float32, copy=False)
        return chunk

    def _act_and_keep(
        self, call: StaticCall, setting: FlowSetting, valid: BoolArray, kept: Intermediates
    ) -> None:
        """Run the flow unrecorded: what a recording computes on the way is gone when it is over."""
        assert self._watch is not None
        velocities: list[Tensor] = []
        integrated = call.act(self._watch.lap, setting, velocities)
        places = torch.from_numpy(np.flatnonzero(valid)).to(self._model.device)
        if integrated.compact:
            places = torch.arange(len(places), device=self._model.device)
        kept.tensors.update(
            cross_mask=torch.from_numpy(valid),
            context_keys=integrated.context_keys[:, :, places],
            context_values=integrated.context_values[:, :, places],
            velocities=torch.cat(velocities),
        )

    def keep_prefill(self, token_ids: IntArray, kept: Intermediates) -> None:
        self._settle_prompt()
        assert self._buffers is not None
        assert self._seen is not None
        keys, values = self._buffers.cache.rows(0, len(token_ids))
        kept.tensors.update(image_features=self._seen.features[:-1], keys=keys, values=values)

    def prepare(self) -> None:
        if self._decoding is not None:
            self._decoding.prepare()


class StaticDecoding:
    """Feeds runs of tokens behind the prompt of a static call, each padded to one of few lengths."""

    def __init__(
        self,
        pipeline: StaticPipeline,
        buffers: CallBuffers,
        fetched: Fetched,
        call: StaticCall,
        prompt_length: int,
        lengths: tuple[int, ...],
        codes: tuple[int, int] | None,
    ) -> None:
        self._pipeline = pipeline
        self._buffers = buffers
        self._fetched = fetched
        self._call = call
        self._prompt_length = prompt_length
        self._lengths = lengths
        self._code_rows = codes
        self._fed = 0
        self._rows = 1

    def feed(self, token_ids: Sequence[int]) -> None:
        count = len(token_ids)
        rows = next(length for length in self._lengths if length >= count)
        position = self._prompt_length + self._fed
        if position + rows > self._call.span:
            raise ValueError(f"the cache holds {self._call.span} positions, {position + rows} are needed")
        self._buffers.run.send(
            token_ids=np.array(token_ids, np.int64), position=np.array([position], np.int32)
        )
        self._pipeline.run(("feed", rows), partial(self._call.feed, rows=rows, codes=self._code_rows))
        self._fed += count
        self._rows = count

    def keep(self, fed: int) -> None:
        if not 0 <= fed <= self._fed:
            raise ValueError(f"{self._fed} tokens were fed; the first {fed} cannot be kept")
        self._fed = fed

    def codes(self) -> list[int]:
        # -1 stands for NaN, which the chunk will show; what is fed until then must be tokens.
        return [max(int(code), 0) for code in self._fetched.codes.fetch(self._rows)]

    def token(self, row: int = -1) -> int:
        self._buffers.choice.send(row=np.array([self._row(row)], np.int32))
        self._pipeline.run(("choose",), self._call.choose)
        return max(int(self._fetched.token.fetch(1)[0]), 0)

    def logits(self, row: int = -1) -> Tensor:
        return self._call.logits(self._row(row))

    def _row(self, row: int) -> int:
        return row if row >= 0 else self._rows + row

    def prepare(self) -> None:
        """Run every length once, behind the prompt and over what was fed there."""
        self._fed = 0
        for length in self._lengths:
            self.feed([0] * length)
            self.keep(0)
        self.token()


def _both(first: Stage, second: Stage, lap: Lap) -> None:
    first(lap)
    second(lap)
