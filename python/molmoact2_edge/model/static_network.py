"""The stages of a call as functions over memory that never moves: what a CUDA graph records.

Every method of :class:`StaticCall` reads and writes tensors that exist before and after it; what it makes in between
is gone when it returns. None waits for the device and none has a shape that depends on data, so that a call of the
same sizes is the same sequence of kernels on the same addresses. On the CPU they run as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from molmoact2_edge.model.attention import hiding
from molmoact2_edge.model.integrator import FlowSetting, Integrated, Integrator
from molmoact2_edge.model.molmoact2 import MolmoAct2
from molmoact2_edge.model.operators import Operators
from molmoact2_edge.model.patches import PatchBuffers
from molmoact2_edge.model.staging import StagedInputs
from molmoact2_edge.model.static_decoder import StaticCache, StaticDecoder
from molmoact2_edge.model.vision import Pooling
from molmoact2_edge.types import BoolArray, IntArray

Lap = Callable[[str], None]
"""Called with a stage's name when the stage is over."""

# Prompts are padded to a multiple of this. Also what a key length must be for fused attention with a bias: rows of the
# bias then begin at multiples of 16 bytes.
BUCKET = 32


def bucket_of(tokens: int) -> int:
    """Return the bucket that a prompt of ``tokens`` tokens is padded to."""
    return -(-tokens // BUCKET) * BUCKET


class CallBuffers:
    """Everything a call reads or writes that does not depend on the cameras, for up to ``capacity`` cache positions.

    ``horizon``: the longest action chunk; ``longest_run``: the most tokens that are fed behind a prompt at a time.
    """

    def __init__(self, model: MolmoAct2, capacity: int, horizon: int, longest_run: int) -> None:
        config, device = model.config, model.device
        columns = config.max_action_dim
        self.capacity = capacity
        self.horizon = horizon
        self.longest_run = longest_run
        self.cache = StaticCache(config.text_config, capacity, model.dtype, device)
        self.prompt = StagedInputs(
            {"token_ids": ((capacity,), torch.int64), "last": ((1,), torch.int32)}, device
        )
        self.run = StagedInputs(
            {"token_ids": ((longest_run,), torch.int64), "position": ((1,), torch.int32)}, device
        )
        self.choice = StagedInputs({"row": ((1,), torch.int32)}, device)
        self.flow = StagedInputs(
            {
                "valid": ((capacity,), torch.bool),
                "depth": ((capacity,), torch.bool),
                "noise": ((1, horizon, columns), torch.float32),
                "guide_actions": ((1, horizon, columns), torch.float32),
                "guide_weights": ((1, horizon), torch.float32),
            },
            device,
        )
        self.states = torch.zeros(
            longest_run, config.text_config.hidden_size, dtype=model.dtype, device=device
        )
        self.codes = torch.zeros(longest_run, dtype=torch.int64, device=device)
        self.token = torch.zeros(1, dtype=torch.int64, device=device)
        self.chunk = torch.zeros(horizon, columns, dtype=torch.float32, device=device)


class CameraBuffers:
    """What depends on the cameras: patches and features, and where in a prompt the features belong.

    ``number`` tells settings of one pipeline apart; ``prefix`` is the length of the prompt up to its last image token.
    """

    def __init__(
        self,
        model: MolmoAct2,
        number: int,
        patches: PatchBuffers,
        pooling: IntArray,
        image_tokens: BoolArray,
        patch_tokens: BoolArray,
    ) -> None:
        """``pooling``: indices into all patches; the flags are (prefix,)."""
        device = model.device
        self.number = number
        self.patches = patches
        indices = torch.from_numpy(pooling).to(device)
        self.pooling = Pooling(indices, None if (pooling >= 0).all() else indices >= 0)
        tokens = len(pooling)
        # The last row stays zero: it is what text tokens get.
        self.features = torch.zeros(
            tokens + 1, model.config.text_config.hidden_size, dtype=model.dtype, device=device
        )
        self.prefix = len(image_tokens)
        self.image_tokens = torch.from_numpy(image_tokens).to(device)
        rows = np.full(self.prefix, tokens, np.int64)
        rows[patch_tokens] = np.arange(tokens)
        self.feature_rows = torch.from_numpy(rows).to(device)
        self.start = torch.zeros(1, dtype=torch.int32, device=device)
        self.end = torch.full((1,), self.prefix, dtype=torch.int32, device=device)


class StaticCall:
    """The stages of calls whose prompt falls in one bucket, with the same cameras and the same room behind it."""

    def __init__(
        self,
        model: MolmoAct2,
        operators: Operators,
        integrator: Integrator,
        buffers: CallBuffers,
        cameras: CameraBuffers,
        patch_grid: tuple[int, int],
        *,
        bucket: int,
        span: int,
    ) -> None:
        """``bucket``: prompt rows; ``span``: cache positions that can be looked at, at least ``bucket``."""
        self._model = model
        self._operators = operators
        self._integrator = integrator
        self._decoder = StaticDecoder(model.decoder, operators)
        self._buffers = buffers
        self._cameras = cameras
        self._patch_grid = patch_grid
        self.bucket = bucket
        self.span = span
        self._columns = torch.arange(span, device=model.device, dtype=torch.int32)
        rows = self._columns[:bucket]
        image = torch.zeros(bucket, dtype=torch.bool, device=model.device)
        image[: cameras.prefix] = cameras.image_tokens
        causal = rows[None, :] <= rows[:, None]
        self._prompt_bias = hiding(causal | (image[:, None] & image[None, :]), model.dtype)
        model.decoder.rope.reserve(buffers.capacity)

    # Stages ------------------------------------------------------------------------------------------------------

    def observe(self, lap: Lap, *, state: bool) -> None:
        """Encode the images and prefill the whole prompt; with ``state``, keep the state of its last token."""
        model, cameras = self._model, self._cameras
        patches = cameras.patches.patches().to(model.dtype)
        features = model.connector(model.vision(patches, self._patch_grid), cameras.pooling)
        cameras.features[:-1].copy_(features)
        lap("vision")
        x = self._embeddings(0)
        x[: cameras.prefix] += cameras.features.index_select(0, cameras.feature_rows)
        self._prefill(x, cameras.start, 0, state)
        lap("prefill")

    def refresh(self, lap: Lap, *, state: bool) -> None:
        """Prefill what follows the last image token; the cache keeps what stands before it."""
        self._prefill(self._embeddings(self._cameras.prefix), self._cameras.end, self._cameras.prefix, state)
        lap("prefill")

    def feed(self, lap: Lap, rows: int, codes: tuple[int, int] | None) -> None:
        """Run ``rows`` tokens from where the host said on; ``codes``: also the best of these vocabulary rows."""
        buffers = self._buffers
        inputs = buffers.run.tensors
        position = inputs["position"]
        stands = position + self._columns[:rows]
        bias = hiding(self._columns[None, :] <= stands[:, None], self._model.dtype)
        x = self._model.decoder.embed(inputs["token_ids"][:rows])
        states = self._decoder.forward(x, buffers.cache, position, bias, states=True)
        assert states is not None
        buffers.states[:rows].copy_(states)
        if codes is not None:
            logits = self._model.decoder.logits(states, *codes)
            buffers.codes[:rows].copy_(self._operators.argmax(logits))

    def choose(self, lap: Lap) -> None:
        """Find the vocabulary's best token at the kept state that the host named."""
        buffers = self._buffers
        state = buffers.states.index_select(0, buffers.choice.tensors["row"])
        buffers.token.copy_(self._operators.argmax(self._model.decoder.logits(state)))

    def act(self, lap: Lap, setting: FlowSetting, velocities: list[Tensor] | None = None) -> Integrated:
        """Integrate the flow, conditioned on the positions of the cache that the host marked as valid."""
        keys, values = self._buffers.cache.rows(0, self.span)
        inputs = self._buffers.flow.tensors
        integrated = self._integrator.integrate(keys, values, inputs, setting, velocities)
        self._buffers.chunk[: setting.horizon].copy_(integrated.chunk)
        lap("flow")
        return integrated

    def logits(self, row: int) -> Tensor:
        """Return the scores of the vocabulary at a kept state. Not for recording: the row is a number."""
        return self._model.decoder.logits(self._buffers.states[row])

    # Parts -------------------------------------------------------------------------------------------------------

    def _embeddings(self, start: int) -> Tensor:
        return self._model.decoder.embed(self._buffers.prompt.tensors["token_ids"][start : self.bucket])

    def _prefill(self, x: Tensor, position: Tensor, start: int, state: bool) -> None:
        buffers = self._buffers
        states = self._decoder.forward(x, buffers.cache, position, self._prompt_bias[start:], states=state)
        # What earlier calls left behind the prompt is masked, but must be finite.
        buffers.cache.clear(self.bucket, self.span)
        if states is not None:
            buffers.states[:1].copy_(states.index_select(0, buffers.prompt.tensors["last"] - start))
