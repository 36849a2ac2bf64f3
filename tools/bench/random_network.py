"""A MolmoAct2 of given shapes with random weights, and inputs for it: what two implementations can be fed alike.

Every weight depends on its checkpoint name, its shape and one seed only, so that each side can make its own copy.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.checkpoint.norm_stats import NormStats
from molmoact2_edge.checkpoint.processor_config import ProcessorConfig
from molmoact2_edge.model.layout import Part, random_source
from molmoact2_edge.model.molmoact2 import MolmoAct2
from molmoact2_edge.processor import ImageInputs, Processor, Prompt
from molmoact2_edge.processor.images import prepare_images
from molmoact2_edge.types import Image

NORM_TAG = "random"
# Outputs that are added to a residual stream; small, so that depth does not blow activations up.
_RESIDUAL = ("attn_out", "ff_out", "out_proj", "down_proj", "wo", "w2")
# A steady component of every embedding, which lets the end of the depth map be decided by construction.
_STEADY = 8.0
_DEPTH_CELL_PIXELS = 32


def complete_config(values: Mapping[str, Any], *, layers: int | None = None, think: bool) -> dict[str, Any]:
    """Return ``values`` of a `config.json` with every token id named, and cut to ``layers`` decoder layers.

    A file that only describes shapes names no ids: control tokens then take the last rows of the vocabulary and image
    tokens the additional rows, as in the releases. ``think`` asks for depth reasoning with one gate per layer.
    """
    config = copy.deepcopy(dict(values))
    for part in ("vit_config", "adapter_config", "text_config"):
        # Releases declare it; the peer's own default is eager attention, which also ignores the pooling mask.
        config[part].setdefault("attn_implementation", "sdpa")
    if layers is not None:
        config["text_config"]["num_hidden_layers"] = layers
        config["action_expert_config"]["num_layers"] = layers
        deepest = max(-layer for layer in config["adapter_config"]["vit_layers"])
        config["vit_config"]["num_hidden_layers"] = max(layers, deepest)
    if think:
        config.update(enable_depth_reasoning=True, action_expert_depth_gate=True)
        config["action_expert_depth_gate_per_layer"] = True
    runs = (
        ("eos_token_id", 1),
        ("action_output_token_id", 1),
        ("action_start_token_id", 1),
        ("action_end_token_id", 1),
        ("depth_output_token_id", 1),
        ("depth_start_token_id", 1),
        ("depth_end_token_id", 1),
        ("state_start_token_id", 1),
        ("state_end_token_id", 1),
        ("action_token_start_id", config["num_action_tokens"]),
        ("state_token_start_id", config["num_state_tokens"]),
        ("depth_token_start_id", config["num_depth_tokens"]),
    )
    token = config["text_config"]["vocab_size"] - sum(size for _, size in runs)
    for key, size in runs:
        config.setdefault(key, token)
        token += size
    config.setdefault("bos_token_id", config["eos_token_id"])
    for key in (
        "image_patch_id",
        "image_col_id",
        "image_start_token_id",
        "low_res_image_start_token_id",
        "frame_start_token_id",
        "image_end_token_id",
        "frame_end_token_id",
        "image_low_res_id",
    ):
        config.setdefault(key, token)
        token += 1
    return config


@dataclass(frozen=True)
class RandomWeights:
    """Makes the weight of a name. Called with the same arguments on the same device it gives the same numbers."""

    seed: int
    device: torch.device
    depth_end_token_id: int | None = None
    depth_token_start_id: int | None = None

    @classmethod
    def of(cls, config: ModelConfig, *, seed: int, device: torch.device) -> RandomWeights:
        think = config.enable_depth_reasoning
        return cls(
            seed,
            device,
            config.depth_end_token_id if think else None,
            config.depth_token_start_id if think else None,
        )

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return float32 values of ``shape`` for the checkpoint tensor ``name``."""
        generator = torch.Generator(self.device)
        generator.manual_seed(zlib.crc32(f"{self.seed}:{name}".encode()))
        values = torch.randn(shape, generator=generator, device=self.device)
        if name.endswith(".bias"):
            return values.mul_(0.02)
        if len(shape) == 1:
            return values.mul_(0.1).add_(1)
        if ".wte." in name:
            values[:, 0] = _STEADY
            return values
        if name.endswith("positional_embedding"):
            return values.mul_(0.1)
        values.mul_(shape[-1] ** -0.5)
        if name.split(".")[-2] in _RESIDUAL:
            values.mul_(0.1)
        if name == "lm_head.weight":
            self._decide_depth(values)
        return values

    def _decide_depth(self, head: Tensor) -> None:
        """Let one code win every cell and `<depth_end>` win over the vocabulary, whatever the rounding.

        With random rows the end would never come, and bf16 noise would flip codes, after which two decodings part.
        """
        if self.depth_end_token_id is None or self.depth_token_start_id is None:
            return
        for row, weight in ((self.depth_end_token_id, 8.0), (self.depth_token_start_id + 1, 4.0)):
            head[row] = 0
            head[row, 0] = weight


def norm_stats(action_dim: int, state_dim: int, horizon: int) -> dict[str, Any]:
    """Return a `norm_stats.json` under which normalized values are the robot's units, unclipped."""

    def plain(size: int) -> dict[str, list[float]]:
        return {"mean": [0.0] * size, "std": [1.0] * size}

    embodiment = {
        "action_horizon": horizon,
        "n_action_steps": horizon,
        "setup_type": "random",
        "control_mode": "random",
        "action_stats": plain(action_dim),
        "state_stats": plain(state_dim),
    }
    return {
        "format": "molmoact2_norm_stats.v1",
        "norm_mode": "mean_std",
        "metadata_by_tag": {NORM_TAG: embodiment},
    }


def processor_config(config: ModelConfig) -> ProcessorConfig:
    """Return the image settings of a robot release: one crop per camera, 2x2 pooling, no column tokens."""
    height, width = config.vit_config.image_default_input_size
    return ProcessorConfig(
        crop_mode="resize",
        size=(height, width),
        patch_size=config.vit_config.image_patch_size,
        pooling_size=(2, 2),
        max_crops=8,
        overlap_margins=(4, 4),
        image_use_col_tokens=False,
        use_single_crop_col_tokens=False,
        use_single_crop_start_token=True,
    )


@dataclass(frozen=True)
class Prepared:
    """An observation after both processors: the camera frames, and what the network reads."""

    frames: list[Image]
    images: ImageInputs
    prompt: Prompt


def random_observation(
    config: ModelConfig, *, cameras: int, text_tokens: int, think: bool, seed: int
) -> Prepared:
    """Return noise frames and a prompt of all images followed by ``text_tokens`` random text tokens."""
    assert config.eos_token_id is not None
    random = np.random.default_rng(seed)
    settings = processor_config(config)
    frames = [random.integers(0, 256, (*settings.size, 3), dtype=np.uint8) for _ in range(cameras)]
    images = prepare_images(frames, settings)
    ids: list[int] = [_named(config.bos_token_id)]
    for tokens in images.tokens_per_image.tolist():
        ids.append(_named(config.image_start_token_id))
        ids.extend([_named(config.image_patch_id)] * tokens)
        ids.append(_named(config.image_end_token_id))
    trigger = [_named(config.depth_output_token_id)] if think else []
    trigger.append(_named(config.action_output_token_id))
    # Text from the lower half of the vocabulary, which holds no control token in any layout.
    text = random.integers(0, config.text_config.vocab_size // 2, text_tokens - len(trigger) - 1)
    input_ids = np.array([*ids, *text.tolist(), *trigger], dtype=np.int64)
    image_ids = [
        _named(config.image_start_token_id),
        _named(config.image_patch_id),
        _named(config.image_end_token_id),
    ]
    return Prepared(frames, images, Prompt("", input_ids, np.isin(input_ids, image_ids)))


def _named(token_id: int | None) -> int:
    assert token_id is not None, "complete_config names every token id"
    return token_id


def with_changed_cells(frame: Image, changed: int, cells: int, seed: int) -> tuple[Image, Image]:
    """Return two frames, before and after, of which exactly ``changed`` of ``cells`` depth cells differ.

    Both have the depth grid's own size, so that no resize mixes neighbouring cells.
    """
    side = int(cells**0.5)
    assert side * side == cells
    size = side * _DEPTH_CELL_PIXELS
    random = np.random.default_rng(seed)
    before: Image = np.resize(frame, (size, size, 3))
    after = before.copy()
    for cell in np.linspace(0, cells - 1, changed).round().astype(int) if changed else []:
        row, column = divmod(int(cell), side)
        rows = slice(row * _DEPTH_CELL_PIXELS, (row + 1) * _DEPTH_CELL_PIXELS)
        columns = slice(column * _DEPTH_CELL_PIXELS, (column + 1) * _DEPTH_CELL_PIXELS)
        after[rows, columns] = random.integers(0, 256, after[rows, columns].shape, dtype=np.uint8)
    return before, after


class PreparedProcessor(Processor):
    """A processor that answers with a prepared observation; statistics and units work as in any other."""

    def __init__(
        self, config: ModelConfig, settings: ProcessorConfig, stats: NormStats, prepared: Prepared
    ) -> None:
        self._config = config
        self._processor_config = settings
        self._norm_stats = stats
        self._prepared = prepared

    def images(self, images: Any) -> ImageInputs:
        return self._prepared.images

    def prompt(self, images: ImageInputs, **_: Any) -> Prompt:
        return self._prepared.prompt


@dataclass(frozen=True)
class RandomNetwork:
    """A network with random weights, and one observation for it."""

    model: MolmoAct2
    prepared: Prepared
    processor: PreparedProcessor


def random_network(
    values: Mapping[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
    cameras: int,
    text_tokens: int,
    think: bool,
    action_dim: int,
    seed: int,
    layers: int | None = None,
) -> RandomNetwork:
    """Return a network of the shapes that ``values``, a `config.json`, gives, and an observation for it."""
    config = ModelConfig.from_json(complete_config(values, layers=layers, think=think))
    weights = RandomWeights.of(config, seed=seed, device=device)

    def fill(part: Part, rows: Tensor) -> None:
        rows.copy_(weights(part.name, part.shape))

    model = MolmoAct2(random_source(fill, dtype=dtype, device=device), config, device)
    prepared = random_observation(config, cameras=cameras, text_tokens=text_tokens, think=think, seed=seed)
    return RandomNetwork(model, prepared, prepared_processor(config, prepared, action_dim))


def prepared_processor(config: ModelConfig, prepared: Prepared, action_dim: int) -> PreparedProcessor:
    """Return the processor of an embodiment with ``action_dim`` joints that answers with ``prepared``."""
    stats = norm_stats(action_dim, action_dim, config.max_action_horizon)
    return PreparedProcessor(
        config,
        processor_config(config),
        NormStats.from_json(stats, default_horizon=config.max_action_horizon),
        prepared,
    )
