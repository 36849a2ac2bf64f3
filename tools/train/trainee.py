"""The network in training: the runtime's own modules with gradients, the losses, and heads that only training needs.

The image half of a prompt does not depend on the instruction (text behind it is causal), so one image is encoded once
and read by one suffix per colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from release import NORM_TAG, POOLING
from snapshots import GRID, IMAGE_SIDE, PATCH
from torch import Tensor

from molmoact2_edge.checkpoint import ModelConfig, NormStats, ProcessorConfig
from molmoact2_edge.checkpoint.json_section import read_json
from molmoact2_edge.model.decoder import Hidden, prefill_mask
from molmoact2_edge.model.expert import Context
from molmoact2_edge.model.layout import Parameter, ParameterSource, Part, random_source
from molmoact2_edge.model.molmoact2 import MolmoAct2
from molmoact2_edge.processor import Processor
from molmoact2_edge.processor.normalization import normalize
from molmoact2_edge.processor.tokenizer import PromptTokenizer
from molmoact2_edge.sim import CAMERAS, COLOURS, instruction
from molmoact2_edge.types import FloatArray, IntArray

_CPU = torch.device("cpu")
_TOKENS = (GRID // POOLING) ** 2  # pooled tokens of one camera
_CELL = PATCH * POOLING  # pixels of one pooled token's side
_SEEN = 0.2  # a block counts as seen from this share of its sight points on
_TABLE_CENTRE, _TABLE_SCALE = (0.24, 0.0), 0.06  # block places are regressed as (place - centre) / scale
_ANSWER_RANGE = ((0.15, 0.33), (-0.15, 0.15))  # metres that the state tokens of an answer span, x then y
_EMBEDDING_STD = 0.5


@dataclass(frozen=True)
class Batch:
    """Snapshots as tensors; C colours, K cameras."""

    patches: Tensor  # (B, K, patches, patch_dim) float32 in [-1, 1]
    suffixes: Tensor  # (B, C, suffix) int64
    chunks: Tensor  # (B, C, T, 6) normalized
    places: Tensor  # (B, C, 2) metres
    pixels: Tensor  # (B, K, C, 2)
    visible: Tensor  # (B, K, C)


class PromptBuilder:
    """Prompts of the task in bulk, the same ids as :class:`Processor` gives one by one."""

    def __init__(self, folder: Path) -> None:
        self.config = ModelConfig.from_json(read_json(folder / "config.json"))
        settings = ProcessorConfig.from_json(read_json(folder / "processor_config.json"))
        stats = NormStats.from_json(
            read_json(folder / "norm_stats.json"), default_horizon=self.config.max_action_horizon
        )
        tokenizer = PromptTokenizer.from_file(
            folder / "tokenizer.json",
            bos_token_id=self.config.bos_token_id,
            eos_token_id=self.config.eos_token_id,
        )
        self.processor = Processor(self.config, settings, stats, tokenizer)
        self.norm_mode = stats.norm_mode
        self.embodiment = self.processor.embodiment(NORM_TAG)
        first = self.config.state_token_start_id
        assert first is not None
        self._first_state = first
        blank = np.zeros((IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
        images = self.processor.images([blank] * len(CAMERAS))
        middle = np.zeros(self.embodiment.state_dim)
        prompts = [
            self.processor.prompt(images, task=instruction(c), state=middle, norm_tag=NORM_TAG, depth=False)
            for c in COLOURS
        ]
        split = int(np.flatnonzero(prompts[0].token_type_ids)[-1]) + 1
        self.prefix = torch.from_numpy(prompts[0].input_ids[:split])
        self.prefix_is_image = torch.from_numpy(prompts[0].token_type_ids[:split])
        self.pooling = torch.from_numpy(images.pooling[:_TOKENS])
        self._suffixes = np.stack([prompt.input_ids[split:] for prompt in prompts])
        ids = self._suffixes[0]
        self._slots = np.flatnonzero(
            (ids >= self._first_state) & (ids < self._first_state + self.config.num_state_tokens)
        )
        assert len(self._slots) == self.embodiment.state_dim
        self.length: int = len(prompts[0].input_ids)

    def suffixes(self, states: FloatArray) -> IntArray:
        """Return (N, colours, suffix) token ids behind the images for measured states (N, 6)."""
        normalized = np.clip(normalize(states, self.embodiment.state_stats, self.norm_mode), -1, 1)
        top = self.config.num_state_tokens - 1
        bins = np.rint((normalized.astype(np.float32) + np.float32(1)) / np.float32(2) * np.float32(top))
        ids = np.repeat(self._suffixes[None], len(states), axis=0)
        ids[:, :, self._slots] = self._first_state + bins.astype(np.int64)[:, None]
        return ids

    def batch(self, fields: Mapping[str, FloatArray]) -> Batch:
        """Return a batch of snapshots given field by field."""
        patches = torch.from_numpy(np.ascontiguousarray(fields["patches"])).float().div_(255).mul_(2).sub_(1)
        chunks = normalize(fields["chunks"], self.embodiment.action_stats, self.norm_mode)
        return Batch(
            patches=patches,
            suffixes=torch.from_numpy(self.suffixes(fields["state"])),
            chunks=torch.from_numpy(chunks),
            places=torch.from_numpy(np.ascontiguousarray(fields["places"])),
            pixels=torch.from_numpy(np.ascontiguousarray(fields["pixels"])),
            visible=torch.from_numpy(np.ascontiguousarray(fields["visible"])),
        )


class TrainingCache:
    """Keys and values of one forward pass, kept layer by layer so that gradients reach them.

    With a ``prefix`` every row continues one of its rows: ``fan_out`` rows in turn share one.
    """

    def __init__(self, prefix: TrainingCache | None = None, fan_out: int = 1) -> None:
        self.length: int = 0 if prefix is None else prefix.length
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._prefix = prefix
        self._fan_out = fan_out

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self._prefix is not None:
            past_key, past_value = self._prefix.keys[layer], self._prefix.values[layer]
            key = torch.cat([past_key.repeat_interleave(self._fan_out, 0), key], dim=1)
            value = torch.cat([past_value.repeat_interleave(self._fan_out, 0), value], dim=1)
        self.keys.append(key)
        self.values.append(value)
        return key, value

    def stacked(self) -> tuple[Tensor, Tensor]:
        """Return keys and values (layers, rows, length, kv_width)."""
        return torch.stack(self.keys).flatten(3), torch.stack(self.values).flatten(3)


class Trainee:
    """The network, the heads of the auxiliary losses, and everything that is trained by name."""

    def __init__(self, prompts: PromptBuilder, seed: int = 0) -> None:
        self.prompts = prompts
        self.config = config = prompts.config
        generator = torch.Generator().manual_seed(seed)
        self.source = _initial_source(config, generator)
        self.model = MolmoAct2(self.source, config, _CPU)
        text = config.text_config
        width, kv_width = text.hidden_size, text.num_key_value_heads * text.head_dim
        self.heads: dict[str, Tensor] = {}
        self._head("dense", len(COLOURS) * 5, width, generator)
        self._head("place.in", 128, 2 * kv_width, generator)
        self._head("place.out", 2 + prompts.embodiment.action_dim, 128, generator)
        self._smooth_state_embeddings(generator)
        for tensor in self.tensors().values():
            tensor.requires_grad_(True)

    @property
    def parameters(self) -> Sequence[Parameter]:
        """The network's own parameters, as they are exported."""
        return self.source.parameters

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that is trained, by a name that stays."""
        named = {"+".join(part.name for part in p.parts): p.tensor for p in self.source.parameters}
        return {**named, **{f"heads.{name}": tensor for name, tensor in self.heads.items()}}

    def _head(self, name: str, rows: int, columns: int, generator: torch.Generator) -> None:
        weight = torch.empty(rows, columns).normal_(std=columns**-0.5, generator=generator)
        self.heads[f"{name}.weight"] = weight
        self.heads[f"{name}.bias"] = torch.zeros(rows)

    def _smooth_state_embeddings(self, generator: torch.Generator) -> None:
        """Start the state tokens as a smooth curve: neighbouring bins mean nearly the same, and all rows know it."""
        config = self.config
        first, count = config.state_token_start_id, config.num_state_tokens
        assert first is not None
        x = torch.linspace(-1, 1, count)[:, None]
        frequencies = math.pi * 2.0 ** torch.arange(-1, 5).float()[None]
        features = torch.cat([x, (x * frequencies).sin(), (x * frequencies).cos()], dim=1)
        weights = torch.tensor([2.0] + 2 * [1.0, 1.0, 0.7, 0.5, 0.35, 0.25])
        mix = torch.empty(features.shape[1], config.text_config.hidden_size).normal_(generator=generator)
        curve = (features * weights) @ mix
        self.model.decoder.embedding[first : first + count] = curve * (_EMBEDDING_STD / curve.std())

    def calibrate(self, batch: Batch) -> None:
        """Scale the connector's last matrix so that image features start at the size of the text embeddings."""
        with torch.no_grad():
            rms = self.image_features(batch.patches).square().mean().sqrt()
            self.model.connector.down.weight.mul_(_EMBEDDING_STD / rms)

    # Forward -----------------------------------------------------------------------------------------------------

    def image_features(self, patches: Tensor) -> Tensor:
        """Return (B * cameras * tokens, width) for patches (B, cameras, patches, patch_dim)."""
        crops = patches.flatten(0, 1)
        first = torch.arange(crops.shape[0])[:, None, None] * crops.shape[1]
        pooling = (self.prompts.pooling[None] + first).flatten(0, 1)
        return self.model.image_features(crops, pooling, (GRID, GRID))

    def encode(self, features: Tensor, suffixes: Tensor) -> TrainingCache:
        """Prefill B images with ``suffixes`` (B, C, suffix): a cache of B * C rows."""
        return self._prefill(features, suffixes, "none")[0]

    def encode_with_answers(
        self, features: Tensor, suffixes: Tensor, places: Tensor
    ) -> tuple[TrainingCache, Tensor]:
        """Prefill as :meth:`encode`, and return the next-token loss of the answer beside the cache.

        The answer to a prompt is the named block's place (B, C, 2) as two state tokens, x then y.
        """
        low, high = torch.tensor(_ANSWER_RANGE).unbind(-1)
        top = self.config.num_state_tokens - 1
        first = self.config.state_token_start_id
        assert first is not None
        bins = ((places - low) / (high - low)).clamp(0, 1).mul(top).round().long() + first
        cache, hidden = self._prefill(features, torch.cat([suffixes, bins[..., :1]], dim=-1), "all")
        assert hidden is not None
        logits = self.model.decoder.logits(hidden[:, -2:])
        return cache, F.cross_entropy(logits.flatten(0, 1), bins.flatten())

    def _prefill(
        self, features: Tensor, suffixes: Tensor, hidden: Hidden
    ) -> tuple[TrainingCache, Tensor | None]:
        batch, fan_out, _ = suffixes.shape
        prefix = TrainingCache()
        ids = self.prompts.prefix[None].expand(batch, -1)
        decoder = self.model.decoder
        mask = prefill_mask(self.prompts.prefix_is_image[None])
        # The prefix's last hidden states are read by nobody, but its last keys and values are.
        decoder.forward(self.model.embed_prompt(ids, features), prefix, mask=mask, hidden="none")
        cache = TrainingCache(prefix, fan_out)
        return cache, decoder.forward(decoder.embed(suffixes.flatten(0, 1)), cache, hidden=hidden)

    def context(self, cache: TrainingCache) -> Context:
        expert = self.model.expert
        assert expert is not None
        return expert.context(*cache.stacked())

    def integrate(self, context: Context, noise: Tensor, steps: int) -> Tensor:
        """Return normalized chunks (rows, T, 6): Euler steps as at inference, with the weights of this moment."""
        expert = self.model.expert
        assert expert is not None
        x = noise
        for step in range(steps):
            x = x + expert.velocity(x, expert.modulation(torch.tensor([step / steps])), context) / steps
        return x

    def act(self, patches: Tensor, suffixes: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Return normalized chunks (B, T, 6) for one suffix (B, suffix) per image."""
        with torch.no_grad():
            cache = self.encode(self.image_features(patches), suffixes[:, None])
            return self.integrate(self.context(cache), noise, steps)

    # Losses ------------------------------------------------------------------------------------------------------

    def grounding_losses(self, batch: Batch, features: Tensor, cache: TrainingCache) -> dict[str, Tensor]:
        """Return the dense loss per image token and the regression of the named block's place and of the goal."""
        regressed = self.regress(cache).unflatten(0, batch.suffixes.shape[:2])
        place = (batch.places - torch.tensor(_TABLE_CENTRE)) / _TABLE_SCALE
        goal = batch.chunks[:, :, -1]
        return {
            **self._dense_losses(batch, features),
            "place": F.smooth_l1_loss(regressed[..., :2], place, beta=0.1),
            "goal": F.smooth_l1_loss(regressed[..., 2:], goal, beta=0.05),
        }

    def regress(self, cache: TrainingCache) -> Tensor:
        """Return (rows, 2 + 6) from what the expert reads at the prompt's last token: values of the last two layers."""
        trigger = self.prompts.length - 1
        values = torch.cat([cache.values[layer][:, trigger].flatten(1) for layer in (-2, -1)], dim=-1)
        hidden = F.silu(F.linear(values, self.heads["place.in.weight"], self.heads["place.in.bias"]))
        regressed: Tensor = F.linear(hidden, self.heads["place.out.weight"], self.heads["place.out.bias"])
        return regressed

    def place_error(self, batch: Batch, cache: TrainingCache) -> Tensor:
        """Return (B, C): metres between the named block and where the regression puts it."""
        regressed = self.regress(cache).unflatten(0, batch.suffixes.shape[:2])[..., :2]
        offset = regressed * _TABLE_SCALE + torch.tensor(_TABLE_CENTRE) - batch.places
        distance: Tensor = torch.linalg.vector_norm(offset, dim=-1)
        return distance

    def _dense_losses(self, batch: Batch, features: Tensor) -> dict[str, Tensor]:
        """Which colours lie in each image token's cell, where in it, and where on the table."""
        found = F.linear(features, self.heads["dense.weight"], self.heads["dense.bias"])
        count = len(batch.patches) * len(CAMERAS)
        found = found.view(count, _TOKENS, len(COLOURS), 5)
        cells = batch.pixels.flatten(0, 1) / _CELL  # (B * K, C, 2) column, row
        side = GRID // POOLING
        seen = batch.visible.flatten(0, 1) >= _SEEN
        column, row = cells.unbind(-1)
        seen = seen & (column >= 0) & (column < side) & (row >= 0) & (row < side)
        token = (row.clamp(0, side - 1).floor() * side + column.clamp(0, side - 1).floor()).long()
        present = F.one_hot(token, _TOKENS).transpose(1, 2) * seen[:, None]  # (B * K, tokens, C)
        presence = F.binary_cross_entropy_with_logits(found[..., 0], present.float(), reduction="sum")
        at = found.gather(1, token[:, None, :, None].expand(-1, 1, -1, 5))[:, 0][seen]  # (seen, 5)
        inside = (cells - cells.floor())[seen] - 0.5
        places = batch.places[:, None].expand(-1, len(CAMERAS), -1, -1).flatten(0, 1)[seen]
        places = (places - torch.tensor(_TABLE_CENTRE)) / _TABLE_SCALE
        return {
            "presence": presence / seen.sum().clamp_min(1),
            "offset": F.smooth_l1_loss(at[:, 1:3], inside, beta=0.05),
            "seen_place": F.smooth_l1_loss(at[:, 3:5], places, beta=0.1),
        }

    def flow_loss(self, batch: Batch, cache: TrainingCache, times: int, generator: torch.Generator) -> Tensor:
        """Return the flow-matching loss with ``times`` draws of noise and time per prompt."""
        config, expert = self.config, self.model.expert
        assert expert is not None
        target = batch.chunks.flatten(0, 1).repeat_interleave(times, 0)
        noise = torch.randn(target.shape, generator=generator)
        # Beta(1, b) by inversion of its distribution function 1 - (1 - t)^b.
        uniform = torch.rand(len(target), generator=generator)
        draw = 1 - (1 - uniform) ** (1 / config.flow_matching_beta_beta)
        t = (
            draw * config.flow_matching_cutoff * config.flow_matching_time_scale
            + config.flow_matching_time_offset
        )
        x = (1 - t)[:, None, None] * noise + t[:, None, None] * target
        context = self.context(cache)
        wide = Context(context.keys.repeat_interleave(times, 1), context.values.repeat_interleave(times, 1))
        velocity = expert.velocity(x, expert.modulation(t), wide)
        return F.mse_loss(velocity, target - noise)


def _initial_source(config: ModelConfig, generator: torch.Generator) -> ParameterSource:
    """Random parameters: maps keep the scale of their input, maps back into a residual stream are smaller."""
    decoder_depth = (2 * config.text_config.num_hidden_layers) ** -0.5
    vision_depth = (2 * config.vit_config.num_hidden_layers) ** -0.5
    expert_depth = (3 * config.text_config.num_hidden_layers) ** -0.5
    residual = {
        "attention.wo.weight": vision_depth,
        "feed_forward.w2.weight": vision_depth,
        "attn_out.weight": decoder_depth,
        "ff_out.weight": decoder_depth,
        "out_proj.weight": expert_depth,
        "down_proj.weight": expert_depth,
    }

    def initialize(part: Part, rows: Tensor) -> None:
        name = part.name
        if name.endswith("modulation.linear.weight"):
            rows.zero_()
        elif ".blocks." in name and name.endswith("modulation.linear.bias"):
            # Shift 0, scale 0, gate 1: at first a plain transformer.
            rows.zero_().view(9, -1)[2::3] = 1
        elif name.endswith("bias"):
            rows.zero_()
        elif rows.ndim == 1:
            rows.fill_(1)
        elif "embedding" in name and "patch" not in name:
            rows.normal_(std=_EMBEDDING_STD, generator=generator)
        elif name == "lm_head.weight" or name.endswith("final_layer.linear.weight"):
            rows.normal_(std=0.02, generator=generator)
        else:
            scale = next((value for ending, value in residual.items() if name.endswith(ending)), 1.0)
            rows.normal_(std=scale * rows.shape[1] ** -0.5, generator=generator)

    return random_source(initialize, dtype=torch.float32, device=_CPU)
