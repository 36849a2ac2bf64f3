"""Present only where the extension was built with CUDA (``build_config()["cuda"]``)."""

from typing import Any, Literal, Protocol

from molmoact2_edge._core.kernels import OpenFastCodec

class DeviceTensor(Protocol):
    """A tensor of any library on a CUDA device, through DLPack; contiguous and of exactly the stated type."""

    def __dlpack__(self, *, stream: Any = ...) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

# Matrices are bfloat16 (rows, width), weights and biases bfloat16 (width,). The work is queued on the CUDA stream
# whose handle is ``stream`` (torch.cuda.Stream.cuda_stream), and outputs are written in place.

def rms_norm(
    x: DeviceTensor, weight: DeviceTensor, out: DeviceTensor, *, eps: float, stream: int
) -> None: ...
def add_rms_norm(
    x: DeviceTensor,
    residual: DeviceTensor,
    weight: DeviceTensor,
    out: DeviceTensor,
    *,
    eps: float,
    stream: int,
) -> None: ...
def layer_norm(
    x: DeviceTensor,
    weight: DeviceTensor,
    bias: DeviceTensor,
    out: DeviceTensor,
    *,
    eps: float,
    stream: int,
) -> None: ...

# qkv (rows, (heads + 2 * kv_heads) * head_dim); q (rows, heads, head_dim), keys and values (capacity, kv_heads,
# head_dim); cosines, sines float32 (positions, head_dim) as RotaryTable.tables; position int32 (1,), where the first
# row stands. Weights as ``norm`` wants them: (head_dim,) or (heads * head_dim,), None with "none". Rows that leave the
# cache or the tables are not stored, and their q is NaN.
def qk_norm_rope_cache(
    qkv: DeviceTensor,
    q: DeviceTensor,
    keys: DeviceTensor,
    values: DeviceTensor,
    *,
    cosines: DeviceTensor,
    sines: DeviceTensor,
    position: DeviceTensor,
    norm: Literal["none", "per_head", "whole"],
    q_weight: DeviceTensor | None,
    k_weight: DeviceTensor | None,
    eps: float,
    stream: int,
) -> None: ...

# up_gate (rows, 2 * width): the second half is the gate; out (rows, width).
def silu_gated(up_gate: DeviceTensor, out: DeviceTensor, *, stream: int) -> None: ...

# ids int64 (rows,): the column in first..last-1 with the largest logit, the lowest of equals, -1 where one is NaN.
def argmax_range(logits: DeviceTensor, ids: DeviceTensor, *, first: int, last: int, stream: int) -> None: ...

_Linear = tuple[DeviceTensor, DeviceTensor]  # weight bfloat16 (out, in), bias bfloat16 (out,)

# image uint8 (H, W, 3), RGB; patches float32 (rows * columns of grid, 3 * patch * patch): the window of that many
# patches from origin (top, left) of the frame resized to size (height, width).
def resize_to_patches(
    image: DeviceTensor,
    patches: DeviceTensor,
    *,
    size: tuple[int, int],
    origin: tuple[int, int],
    grid: tuple[int, int],
    patch: int,
    stream: int,
) -> None: ...

class DepthDiff:
    """kernels.depth_update_mask on a device, to the bit, for frames of two sizes (height, width); calls of one must
    follow one another."""

    def __init__(
        self, *, current: tuple[int, int], previous: tuple[int, int], side: int, device: int = 0
    ) -> None: ...

    # current, previous uint8 (H, W, 3), RGB, of these sizes; changed bool (side * side,).
    def update_mask(
        self, current: DeviceTensor, previous: DeviceTensor, changed: DeviceTensor, *, stream: int
    ) -> None: ...

class FlowPlan:
    """The expert's Euler loop on the device of its weights, which it packs: ``blocks`` in FlowBlockWeights' order."""

    def __init__(
        self,
        *,
        heads: int,
        action_embed: _Linear,
        blocks: list[tuple[_Linear, _Linear, _Linear, _Linear, _Linear, _Linear]],
        final: _Linear,
        qk_norm: bool,
        qk_norm_eps: float,
        rope: bool,
        causal: bool,
        max_horizon: int,
        grid_blocks: int = 0,
    ) -> None: ...
    @property
    def max_horizon(self) -> int: ...
    @property
    def grid_blocks(self) -> int: ...
    @property
    def device_bytes(self) -> int: ...

    # keys, values bfloat16 (layers, heads, capacity, head_dim), of which tokens int32 (1,) are read; blocks (steps,
    # layers, 9, width) and final (steps, 2, width) both float32 or both bfloat16; all else float32: noise and chunk
    # (T, A), velocities (steps, T, A), guide (T, A), guide_weight (T,). Both ways give the same bits.
    def run_persistent(
        self,
        keys: DeviceTensor,
        values: DeviceTensor,
        tokens: DeviceTensor,
        blocks: DeviceTensor,
        final: DeviceTensor,
        noise: DeviceTensor,
        chunk: DeviceTensor,
        valid_columns: int,
        velocities: DeviceTensor | None = None,
        guide: DeviceTensor | None = None,
        guide_weight: DeviceTensor | None = None,
        *,
        stream: int,
    ) -> None: ...
    def run_launches(
        self,
        keys: DeviceTensor,
        values: DeviceTensor,
        tokens: DeviceTensor,
        blocks: DeviceTensor,
        final: DeviceTensor,
        noise: DeviceTensor,
        chunk: DeviceTensor,
        valid_columns: int,
        velocities: DeviceTensor | None = None,
        guide: DeviceTensor | None = None,
        guide_weight: DeviceTensor | None = None,
        *,
        stream: int,
    ) -> None: ...

MAX_CONTEXT_WIDTH: int

# keys, values bfloat16 (layers, tokens, kv_width), rows contiguous; valid, depth bool (tokens,), depth None without a
# gate; key, value bfloat16 (E, kv_width); gate: weight (gates, kv_width) and bias (gates,), one for all layers or one
# per layer. Written: projected_keys, projected_values bfloat16 (layers, heads, capacity, head_dim) with capacity at
# least tokens and E = heads * head_dim at most MAX_CONTEXT_WIDTH, the valid tokens first and what lies behind them as
# it was; count int32 (1,), how many those are. workspace: uint8, context_workspace_bytes().
def context(
    keys: DeviceTensor,
    values: DeviceTensor,
    valid: DeviceTensor,
    depth: DeviceTensor | None,
    *,
    key: DeviceTensor,
    value: DeviceTensor,
    gate: tuple[DeviceTensor, DeviceTensor] | None,
    workspace: DeviceTensor,
    projected_keys: DeviceTensor,
    projected_values: DeviceTensor,
    count: DeviceTensor,
    layer_norm: bool,
    qk_norm: bool,
    qk_norm_eps: float,
    stream: int,
) -> None: ...
def context_workspace_bytes(*, gates: int, tokens: int) -> int: ...

class OpenFastDecoder:
    """OpenFastCodec.decode on a device, for chunks of one shape; calls of one decoder must follow one another."""

    def __init__(self, codec: OpenFastCodec, *, steps: int, dims: int, device: int = 0) -> None: ...

    # tokens int64 (capacity,), of which count int32 (1,) are read; chunk float64 (steps, dims), written only where
    # status int32 (1,) becomes 0; openfast_reason() says what other numbers mean.
    def decode(
        self,
        tokens: DeviceTensor,
        count: DeviceTensor,
        chunk: DeviceTensor,
        status: DeviceTensor,
        *,
        stream: int,
    ) -> None: ...

def openfast_reason(status: int) -> str | None: ...
