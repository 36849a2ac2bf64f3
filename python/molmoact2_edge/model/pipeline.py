"""From patches and token ids to an action chunk: what every way of running the network offers, and the plain way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.decoder import Hidden, KeyValueCache
from molmoact2_edge.model.decoding import CachedDecoding, Decoding, feed
from molmoact2_edge.model.flow import FlowGuide
from molmoact2_edge.model.integrator import FlowSetting
from molmoact2_edge.model.masks import cross_attention_mask, depth_tokens
from molmoact2_edge.model.molmoact2 import MolmoAct2
from molmoact2_edge.processor import ImageInputs, Prompt
from molmoact2_edge.timing import Stopwatch
from molmoact2_edge.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What is known of a call before it begins.

    ``room``: tokens that may follow the prompt; ``state``: whether the prompt's last state is asked for; ``horizon``:
    steps of the action chunk.
    """

    room: int
    state: bool
    horizon: int


@dataclass(frozen=True, slots=True)
class FlowInputs:
    """One action chunk to be integrated.

    ``noise``: (T, max_action_dim) float32; ``guide_actions``: (T, max_action_dim) and ``guide_weights``: (T,) float32,
    both in the model's units, or None where there is no guide.
    """

    noise: FloatArray
    setting: FlowSetting
    guide_actions: FloatArray | None = None
    guide_weights: FloatArray | None = None


@dataclass
class Intermediates:
    """Results on the way to a chunk, for comparisons; names as in :class:`molmoact2_edge.policy.Trace`."""

    tensors: dict[str, Tensor]


class Pipeline(Protocol):
    """Runs the network for one call after another, all inside of :meth:`session`.

    A call is :meth:`observe` or :meth:`refresh`, then any use of :meth:`decoding`, then perhaps :meth:`act`.
    """

    @property
    def backends(self) -> dict[str, str]:
        """What computes each part that has more than one implementation."""
        ...

    @property
    def reads_frames(self) -> bool:
        """Whether :meth:`observe` reads the frames themselves, so that nobody need resize them before."""
        ...

    def session(self) -> AbstractContextManager[object]:
        """Make this pipeline's device, and stream where it has one, the current ones."""
        ...

    def observe(self, images: ImageInputs, prompt: Prompt, plan: CallPlan, watch: Stopwatch) -> None:
        """Encode the images and prefill the prompt. What it queues may be queued as late as with what follows."""
        ...

    def refresh(self, prompt: Prompt, plan: CallPlan, watch: Stopwatch) -> None:
        """Prefill what follows the last image token; the part before it equals that of the last observation."""
        ...

    def decoding(self) -> Decoding:
        """Return what feeds tokens behind the prompt, the same object throughout a call."""
        ...

    def act(self, token_ids: IntArray, inputs: FlowInputs, kept: Intermediates | None = None) -> FloatArray:
        """Return the normalized chunk (T, max_action_dim) given all cached tokens: the prompt and what was fed."""
        ...

    def keep_prefill(self, token_ids: IntArray, kept: Intermediates) -> None:
        """Keep the image features, and the cache of all tokens so far."""
        ...

    def prepare(self) -> None:
        """Get everything ready that calls like the last one may need. That call's decoding is over."""
        ...


def prefix_length(prompt: Prompt) -> int:
    """Return how many tokens a prompt has up to its last image token."""
    return int(np.flatnonzero(prompt.token_type_ids)[-1]) + 1


def code_rows(config: ModelConfig) -> tuple[int, int] | None:
    """Return the rows of the vocabulary head that score depth codes, (start, stop), or None where there are none."""
    first = config.depth_token_start_id
    if first is None or not config.enable_depth_reasoning:
        return None
    return (first, first + config.num_depth_tokens)


class EagerPipeline:
    """The network in plain torch, operation by operation, with shapes that fit each call."""

    reads_frames = False

    def __init__(self, model: MolmoAct2, patch_grid: tuple[int, int]) -> None:
        self._model = model
        self._patch_grid = patch_grid
        self._cache: KeyValueCache | None = None
        self._features: Tensor | None = None
        self._prefix = 0
        self._decoding: CachedDecoding | None = None
        self._watch: Stopwatch | None = None

    @property
    def backends(self) -> dict[str, str]:
        return {"call": "eager", **self._model.backends}

    def session(self) -> AbstractContextManager[object]:
        device = self._model.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def observe(self, images: ImageInputs, prompt: Prompt, plan: CallPlan, watch: Stopwatch) -> None:
        features = self._model.image_features(
            self._on_device(images.pixel_values), self._on_device(images.batched_pooling()), self._patch_grid
        )
        watch.lap("vision")
        cache = self._new_cache(prompt, plan)
        state = self._model.prefill(
            self._on_device(prompt.input_ids).unsqueeze(0),
            self._on_device(prompt.token_type_ids).unsqueeze(0),
            features,
            cache,
            hidden=_hidden(plan),
        )
        self._features, self._prefix = features, prefix_length(prompt)
        self._continue_from(cache, state, watch)

    def refresh(self, prompt: Prompt, plan: CallPlan, watch: Stopwatch) -> None:
        assert self._cache is not None
        cache = self._new_cache(prompt, plan)
        cache.copy_prefix(self._cache, self._prefix)
        rest = prompt.input_ids[self._prefix :].tolist()
        self._continue_from(cache, feed(self._model.decoder, cache, rest, _hidden(plan)), watch)

    def decoding(self) -> Decoding:
        assert self._decoding is not None
        return self._decoding

    def act(self, token_ids: IntArray, inputs: FlowInputs, kept: Intermediates | None = None) -> FloatArray:
        model = self._model
        assert model.expert is not None
        assert self._cache is not None
        assert self._watch is not None
        valid = cross_attention_mask(token_ids, model.config)
        depth = depth_tokens(token_ids, model.config)
        keys, values = self._cache.filled()
        context = model.context(keys[:, 0], values[:, 0], self._on_device(valid), self._on_device(depth))
        velocities: list[Tensor] | None = None if kept is None else []
        setting = inputs.setting
        guide = None
        if inputs.guide_actions is not None and inputs.guide_weights is not None:
            guide = FlowGuide(
                self._on_device(inputs.guide_actions[None]), self._on_device(inputs.guide_weights[None])
            )
        noise = self._on_device(inputs.noise[None])
        chunk = model.expert.integrate(noise, context, setting.steps, setting.valid_dim, velocities, guide)
        if kept is not None and velocities is not None:
            kept.tensors.update(
                cross_mask=torch.from_numpy(valid),
                context_keys=context.keys[:, 0],
                context_values=context.values[:, 0],
                velocities=torch.cat(velocities),
            )
        self._watch.lap("flow")
        return chunk[0].cpu().numpy()

    def keep_prefill(self, token_ids: IntArray, kept: Intermediates) -> None:
        assert self._cache is not None
        assert self._features is not None
        keys, values = self._cache.filled()
        kept.tensors.update(image_features=self._features, keys=keys[:, 0], values=values[:, 0])

    def prepare(self) -> None:
        pass

    def _continue_from(self, cache: KeyValueCache, state: Tensor | None, watch: Stopwatch) -> None:
        codes = code_rows(self._model.config)
        self._cache = cache
        self._decoding = CachedDecoding(self._model.decoder, cache, state=state, codes=codes)
        self._watch = watch
        watch.lap("prefill")

    def _new_cache(self, prompt: Prompt, plan: CallPlan) -> KeyValueCache:
        return self._model.decoder.new_cache(1, len(prompt.input_ids) + plan.room)

    def _on_device(self, values: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(self._model.device)


def _hidden(plan: CallPlan) -> Hidden:
    return "last" if plan.state else "none"
