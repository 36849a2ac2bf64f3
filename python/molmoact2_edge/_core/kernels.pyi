from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MAX_STEPS: int
MAX_ACTION_DIMS: int
MAX_FRAME_SIDE: int
MAX_GRID_SIDE: int
MAX_IMAGE_SIDE: int

class OpenFastCodec:
    def __init__(
        self,
        *,
        token_bytes: Sequence[bytes],
        byte_ids: NDArray[np.int32],
        merges: NDArray[np.int32],
        splits_words: bool,
        character_classes: NDArray[np.uint8],
        scale: float,
        min_token: int,
    ) -> None: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def scale(self) -> float: ...
    @property
    def min_token(self) -> int: ...
    def encode(self, chunk: NDArray[np.float64]) -> list[int]: ...
    def decode(
        self, tokens: list[int] | NDArray[np.int64], steps: int, dims: int
    ) -> NDArray[np.float64] | None: ...

def quantize_chunk(chunk: NDArray[np.float64], scale: float) -> NDArray[np.float64]: ...
def resize_bilinear(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]: ...
def depth_update_mask(
    current: NDArray[np.uint8], previous: NDArray[np.uint8], side: int
) -> NDArray[np.bool_]: ...
def resize_to_patches(
    image: NDArray[np.uint8],
    *,
    size: tuple[int, int],
    origin: tuple[int, int],
    grid: tuple[int, int],
    patch: int,
    patches: NDArray[np.float32],
) -> None: ...

_Floats = NDArray[np.float32]
_Linear = tuple[_Floats, _Floats]

class FlowPlan:
    def __init__(
        self,
        *,
        heads: int,
        action_embed: _Linear,
        blocks: Sequence[tuple[_Linear, _Linear, _Linear, _Linear, _Linear, _Linear]],
        final: _Linear,
        qk_norm: bool,
        qk_norm_eps: float,
        rope: bool,
        causal: bool,
        threads: int | None = None,
        available_threads: int = 1,
        isa: str | None = None,
    ) -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    def run(
        self,
        noise: _Floats,
        keys: _Floats,
        values: _Floats,
        modulation: _Floats,
        final_modulation: _Floats,
        valid_columns: int,
        velocities: _Floats | None = None,
        guide: _Floats | None = None,
        guide_weight: _Floats | None = None,
    ) -> _Floats: ...

def cpu_isas() -> list[str]: ...

class ContextPlan:
    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        key: _Floats,
        value: _Floats,
        gate: _Linear | None = None,
        layer_norm: bool,
        qk_norm: bool,
        qk_norm_eps: float,
        threads: int = 1,
        isa: str | None = None,
    ) -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    def run(
        self,
        keys: _Floats,
        values: _Floats,
        valid: NDArray[np.bool_],
        depth: NDArray[np.bool_] | None = None,
    ) -> tuple[_Floats, _Floats]: ...

# The decoder's operations in float32; (rows, width) throughout. ``residual`` gets the sum, ``keys`` and ``values``
# (capacity, kv_heads, head_dim) the rows from ``position`` on; ``cosines`` and ``sines`` as RotaryTable.tables.
def rms_norm(x: _Floats, weight: _Floats, *, eps: float) -> _Floats: ...
def add_rms_norm(x: _Floats, residual: _Floats, weight: _Floats, *, eps: float) -> _Floats: ...
def layer_norm(x: _Floats, weight: _Floats, bias: _Floats, *, eps: float) -> _Floats: ...
def qk_norm_rope_cache(
    qkv: _Floats,
    keys: _Floats,
    values: _Floats,
    *,
    cosines: _Floats,
    sines: _Floats,
    position: int,
    norm: Literal["none", "per_head", "whole"],
    q_weight: _Floats | None,
    k_weight: _Floats | None,
    eps: float,
) -> _Floats: ...
def silu_gated(up_gate: _Floats) -> _Floats: ...
def argmax_range(logits: _Floats, *, first: int, last: int) -> NDArray[np.int64]: ...
