"""What a prediction consists of, and what it leaves behind for the next one and for comparisons."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from molmoact2_edge.model.depth_decode import DepthDecode
from molmoact2_edge.processor import ImageInputs, Prompt
from molmoact2_edge.types import BoolArray, FloatArray, Image, IntArray


@dataclass(frozen=True)
class DepthCache:
    """What MolmoAct2-Think remembers of one frame: its first image and the depth codes of all cells."""

    image: Image
    codes: IntArray


@dataclass(frozen=True)
class Prediction:
    """One chunk of actions and how it came about.

    ``actions``: (n_action_steps, action_dim) float32 in the robot's own units, empty when not ``valid``;
    ``reason`` says why. ``token_ids``: the discrete generation, else the depth tokens, as vocabulary ids, or None.
    ``depth_codes``: (num_depth_codes,) int64 or None; ``depth_update_mask``: bool, the cells that were decoded anew,
    or None when there was no cache; ``depth_forwards``: passes through the decoder that the depth map took;
    ``depth_cache`` goes into the next call. ``guide_clipped``: how many values of the guide's weighted rows lie outside
    of what the model can express and were clipped to it, None without a guide. ``timing``: seconds per stage.
    """

    actions: FloatArray
    valid: bool
    reason: str
    timing: dict[str, float]
    token_ids: list[int] | None = None
    depth_codes: IntArray | None = None
    depth_update_mask: BoolArray | None = None
    depth_forwards: int | None = None
    depth_cache: DepthCache | None = None
    guide_clipped: int | None = None


@dataclass
class Trace:
    """Collects intermediate results of one call, to compare implementations stage by stage.

    Every field is filled by the call that the trace is handed to; arrays are float32 on the CPU.
    ``keys``, ``values``: (layers, tokens, kv_width) before the depth gate; ``context_keys``, ``context_values``:
    (layers, heads, valid tokens, head size); ``velocities``: (steps, T, max_action_dim), padding columns still in.
    """

    images: ImageInputs | None = None
    prompt: Prompt | None = None
    arrays: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    def keep(self, **tensors: Tensor) -> None:
        """Store copies of tensors under their names."""
        for name, tensor in tensors.items():
            values = tensor.detach().cpu()
            self.arrays[name] = (values.float() if values.is_floating_point() else values).numpy().copy()


class Outcome:
    """What a call has found out so far; the first reason to distrust it stands."""

    def __init__(self, prompt_ids: IntArray) -> None:
        self.cached_ids = prompt_ids
        self.token_ids: list[int] | None = None
        self.codes: IntArray | None = None
        self.update_mask: BoolArray | None = None
        self.depth_cache: DepthCache | None = None
        self.depth_forwards: int | None = None
        self.guide_clipped: int | None = None
        self.reason = ""

    def refuse(self, reason: str) -> None:
        self.reason = self.reason or reason

    def add_depth(self, decoded: DepthDecode, image: Image) -> None:
        self.cached_ids = np.concatenate([self.cached_ids, np.asarray(decoded.token_ids, dtype=np.int64)])
        self.token_ids = decoded.token_ids
        self.codes = np.asarray(decoded.codes, dtype=np.int64)
        self.depth_forwards = decoded.forwards
        if decoded.complete:
            self.depth_cache = DepthCache(image.copy(), self.codes)
        else:
            self.refuse("the depth map did not end with <depth_end>")

    def prediction(self, actions: FloatArray, timing: dict[str, float]) -> Prediction:
        return Prediction(
            actions=actions,
            valid=not self.reason,
            reason=self.reason,
            timing=timing,
            token_ids=self.token_ids,
            depth_codes=self.codes,
            depth_update_mask=self.update_mask,
            depth_forwards=self.depth_forwards,
            depth_cache=self.depth_cache,
            guide_clipped=self.guide_clipped,
        )
