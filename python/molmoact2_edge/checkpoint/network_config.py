"""The four networks of a MolmoAct2, as `config.json` describes them: vision tower, connector, decoder, action expert.

Field names are the file's own keys. A value that this runtime does not compute exactly is refused here, with
the values that it does: no checkpoint can load and then predict something else than its authors meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from molmoact2_edge.checkpoint.json_section import Section


@dataclass(frozen=True)
class VitConfig:
    """The vision tower."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    layer_norm_eps: float
    image_default_input_size: tuple[int, int]
    image_patch_size: int
    image_num_pos: int

    @classmethod
    def from_json(cls, values: object) -> VitConfig:
        section = values if isinstance(values, Section) else Section(values, "vit_config")
        heads = section.integer("num_attention_heads")
        height, width = section.integers("image_default_input_size", length=2)
        config = cls(
            hidden_size=section.integer("hidden_size"),
            intermediate_size=section.integer("intermediate_size"),
            num_hidden_layers=section.integer("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=section.integer("num_key_value_heads", heads),
            head_dim=section.integer("head_dim"),
            hidden_act=section.choice("hidden_act", ("gelu_pytorch_tanh",)),
            layer_norm_eps=section.number("layer_norm_eps"),
            image_default_input_size=(height, width),
            image_patch_size=section.integer("image_patch_size"),
            image_num_pos=section.integer("image_num_pos"),
        )
        if config.num_key_value_heads != heads:
            section.refuse(
                "num_key_value_heads", f"num_attention_heads = {heads} (grouped heads are not supported here)"
            )
        patch = config.image_patch_size
        if min(height, width) < patch or height % patch or width % patch:
            section.refuse("image_default_input_size", f"multiples of image_patch_size = {patch}")
        rows, columns = height // patch, width // patch
        if config.image_num_pos not in (rows * columns, math.isqrt(config.image_num_pos) ** 2):
            section.refuse(
                "image_num_pos", f"the default input's {rows} x {columns} patches, or a square number"
            )
        return config

    @property
    def patch_dim(self) -> int:
        """Numbers in one flattened patch: side x side x RGB."""
        return self.image_patch_size**2 * 3

    @property
    def position_grid(self) -> tuple[int, int]:
        """Rows and columns of the learned positions: the default input's patches, else a square of its own."""
        height, width = self.image_default_input_size
        rows, columns = height // self.image_patch_size, width // self.image_patch_size
        if rows * columns == self.image_num_pos:
            return rows, columns
        return math.isqrt(self.image_num_pos), math.isqrt(self.image_num_pos)

    def feature_layers(self, adapter: AdapterConfig) -> tuple[int, ...]:
        """Indices (from 0) of the layers whose outputs the connector takes, in order of concatenation."""
        return tuple(layer + self.num_hidden_layers if layer < 0 else layer for layer in adapter.vit_layers)

    def layers_needed(self, adapter: AdapterConfig) -> int:
        """Layers up to the last one that the connector takes; checkpoints hold no later ones."""
        return max(self.feature_layers(adapter)) + 1


@dataclass(frozen=True)
class AdapterConfig:
    """The connector between vision tower and decoder: attention pooling, then a gated projection."""

    vit_layers: tuple[int, ...]
    pooling_attention_mask: bool
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    intermediate_size: int
    text_hidden_size: int

    @classmethod
    def from_json(cls, values: object) -> AdapterConfig:
        section = values if isinstance(values, Section) else Section(values, "adapter_config")
        heads = section.integer("num_attention_heads")
        config = cls(
            vit_layers=section.integers("vit_layers"),
            pooling_attention_mask=section.boolean("pooling_attention_mask", False),
            hidden_size=section.integer("hidden_size"),
            num_attention_heads=heads,
            num_key_value_heads=section.integer("num_key_value_heads", heads),
            head_dim=section.integer("head_dim"),
            hidden_act=section.choice("hidden_act", ("silu",)),
            intermediate_size=section.integer("intermediate_size"),
            text_hidden_size=section.integer("text_hidden_size"),
        )
        if config.num_key_value_heads != heads:
            section.refuse(
                "num_key_value_heads", f"num_attention_heads = {heads} (grouped heads are not supported here)"
            )
        return config


@dataclass(frozen=True)
class TextConfig:
    """The decoder. `rope_theta` is resolved from either of the places where checkpoints keep it."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    additional_vocab_size: int
    qkv_bias: bool
    num_hidden_layers: int
    intermediate_size: int
    hidden_act: str
    max_position_embeddings: int
    rope_theta: float
    use_qk_norm: bool
    qk_norm_type: str
    layer_norm_eps: float
    norm_after: bool

    @classmethod
    def from_json(cls, values: object) -> TextConfig:
        section = values if isinstance(values, Section) else Section(values, "text_config")
        config = cls(
            hidden_size=section.integer("hidden_size"),
            num_attention_heads=section.integer("num_attention_heads"),
            num_key_value_heads=section.integer("num_key_value_heads"),
            head_dim=section.integer("head_dim"),
            vocab_size=section.integer("vocab_size"),
            additional_vocab_size=section.integer("additional_vocab_size", 0, minimum=0),
            qkv_bias=section.boolean("qkv_bias", False),
            num_hidden_layers=section.integer("num_hidden_layers"),
            intermediate_size=section.integer("intermediate_size"),
            hidden_act=section.choice("hidden_act", ("silu",)),
            max_position_embeddings=section.integer("max_position_embeddings"),
            rope_theta=_rope_theta(section),
            use_qk_norm=section.boolean("use_qk_norm", False),
            qk_norm_type=section.choice("qk_norm_type", ("qwen3", "olmo"), "olmo"),
            layer_norm_eps=section.number("layer_norm_eps"),
            norm_after=section.boolean("norm_after", False),
        )
        if config.num_attention_heads % config.num_key_value_heads:
            section.refuse(
                "num_key_value_heads", f"a divisor of num_attention_heads = {config.num_attention_heads}"
            )
        if config.head_dim % 2:
            section.refuse("head_dim", "even, because RoPE rotates halves")
        if section.get("rope_scaling_layers") is not None:
            section.refuse("rope_scaling_layers", "null; scaled RoPE is not supported")
        if section.boolean("tie_word_embeddings", False):
            section.refuse("tie_word_embeddings", "false; MolmoAct2 keeps `lm_head` as a tensor of its own")
        return config

    @property
    def embedding_rows(self) -> int:
        """Token ids that have an embedding; `lm_head` covers the first `vocab_size` of them only."""
        return self.vocab_size + self.additional_vocab_size


def _rope_theta(section: Section) -> float:
    """The RoPE base, from `rope_parameters` in newer files or `rope_theta` in older ones; plain RoPE only."""
    for key in ("rope_scaling", "rope_parameters"):
        parameters = section.get(key)
        if parameters is None:
            continue
        kind = Section(parameters, key).get("rope_type", parameters.get("type", "default"))
        if kind != "default":
            section.refuse(key, "null or of the supported rope_type 'default'")
    parameters = section.get("rope_parameters")
    if isinstance(parameters, Mapping) and parameters.get("rope_theta") is not None:
        return section.section("rope_parameters").number("rope_theta")
    return section.number("rope_theta")


@dataclass(frozen=True)
class ActionExpertConfig:
    """The flow-matching action expert: one block per decoder layer."""

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_ratio: float
    ffn_multiple_of: int
    timestep_embed_dim: int
    context_layer_norm: bool
    qk_norm: bool
    qk_norm_eps: float
    rope: bool
    causal_attn: bool

    @classmethod
    def from_json(cls, values: object) -> ActionExpertConfig:
        section = values if isinstance(values, Section) else Section(values, "action_expert_config")
        config = cls(
            hidden_size=section.integer("hidden_size"),
            num_layers=section.integer("num_layers"),
            num_heads=section.integer("num_heads"),
            mlp_ratio=section.number("mlp_ratio", 4.0),
            ffn_multiple_of=section.integer("ffn_multiple_of", 256),
            timestep_embed_dim=section.integer("timestep_embed_dim", minimum=4),
            context_layer_norm=section.boolean("context_layer_norm", True),
            qk_norm=section.boolean("qk_norm", True),
            qk_norm_eps=section.number("qk_norm_eps", 1e-6),
            rope=section.boolean("rope", True),
            causal_attn=section.boolean("causal_attn", False),
        )
        if config.hidden_size % config.num_heads:
            section.refuse("hidden_size", f"a multiple of num_heads = {config.num_heads}")
        if config.rope and config.head_dim % 2:
            section.refuse(
                "num_heads", f"such that the head size {config.head_dim} is even, because RoPE rotates halves"
            )
        if config.timestep_embed_dim % 2:
            section.refuse("timestep_embed_dim", "even: a sine half and a cosine half")
        return config

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def intermediate_size(self) -> int:
        """Inner width of the MLP: `mlp_ratio` widths, rounded up to a multiple of `ffn_multiple_of`."""
        return math.ceil(int(self.hidden_size * self.mlp_ratio) / self.ffn_multiple_of) * self.ffn_multiple_of
