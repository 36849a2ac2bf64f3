"""The whole network: what a prompt with images is turned into, stage by stage."""

from __future__ import annotations

import torch
from torch import Tensor

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.context import CompiledContext
from molmoact2_edge.model.decoder import Decoder, Hidden, LayerCache, prefill_mask
from molmoact2_edge.model.depth_gate import DepthGate
from molmoact2_edge.model.expert import ActionExpert, Context
from molmoact2_edge.model.layout import ParameterSource, TensorReader, checkpoint_source
from molmoact2_edge.model.vision import Connector, Pooling, VisionTower


class MolmoAct2:
    """Vision tower, connector, decoder, action expert and, for Think, the depth gate.

    Built from any :class:`ParameterSource`; :meth:`load` reads a checkpoint. All methods take and return tensors on
    the model's device; none of them keeps state between calls.
    """

    def __init__(self, source: ParameterSource, config: ModelConfig, device: torch.device) -> None:
        vit, adapter, text = config.vit_config, config.adapter_config, config.text_config
        layers = vit.feature_layers(adapter)
        self.config = config
        self.device = device
        # A file that only describes shapes may name no token ids; no id then marks an image token.
        self._image_patch_id = -1 if config.image_patch_id is None else config.image_patch_id
        self.vision = VisionTower(source, vit, layers)
        self.connector = Connector(source, adapter, vit.hidden_size * len(layers))
        self.decoder = Decoder(source, text, device)
        self.expert: ActionExpert | None = None
        self.depth_gate: DepthGate | None = None
        self._compiled_context: CompiledContext | None = None
        if config.add_action_expert:
            self.expert = ActionExpert(
                source,
                config.action_expert_config,
                action_dim=config.max_action_dim,
                context_width=text.num_key_value_heads * text.head_dim,
                device=device,
            )
            if config.action_expert_depth_gate:
                self.depth_gate = DepthGate(source, config)
        self.parameters: list[Tensor] = [parameter.tensor for parameter in source.parameters]

    @classmethod
    def load(
        cls,
        config: ModelConfig,
        reader: TensorReader,
        *,
        dtype: torch.dtype,
        device: torch.device,
        compile_flow: bool = True,
    ) -> MolmoAct2:
        """Read the weights tensor by tensor, converting to ``dtype`` on ``device``.

        With ``compile_flow`` context and flow loop are the compiled ones in float32 on the CPU; elsewhere they are
        torch's. ``backends`` tells.

        Raises:
            CheckpointError: A tensor is missing or its shape is not what the configuration says.
        """
        model = cls(checkpoint_source(reader, dtype=dtype, device=device), config, device)
        if compile_flow and model.expert is not None and device.type == "cpu" and dtype == torch.float32:
            model.expert.compile()
            model.compile_context()
        return model

    def compile_context(self) -> None:
        """Let :meth:`context` run in C++ from here on; float32 on the CPU only.

        The weights are copied: whoever changes them later calls this again, or :meth:`context` raises.
        """
        assert self.expert is not None
        layers = self.config.text_config.num_hidden_layers
        threads = torch.get_num_threads()
        self._compiled_context = CompiledContext(self.expert, self.depth_gate, layers=layers, threads=threads)

    @property
    def backends(self) -> dict[str, str]:
        """What computes each stage that has more than one implementation."""
        if self.expert is None:
            return {}
        compiled = self._compiled_context
        return {
            "context": "torch" if compiled is None else compiled.backend,
            "flow": self.expert.flow_backend,
        }

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.embedding.dtype

    def image_features(self, pixel_values: Tensor, pooling: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return (image tokens, width) for patches (crops, patches, patch_dim) and pooling indices over all patches.

        ``grid`` is the patch grid (rows, columns) of every crop.
        """
        return self.connector(self.vision(pixel_values.to(self.dtype), grid), Pooling.of(pooling))

    def embed_prompt(self, input_ids: Tensor, image_features: Tensor) -> Tensor:
        """Return prompt embeddings (batch, S, width): image features are added at ``<im_patch>``, in order."""
        embeddings = self.decoder.embed(input_ids)
        positions = torch.eq(input_ids, self._image_patch_id).flatten().nonzero().squeeze(1)
        return embeddings.flatten(0, 1).index_add(0, positions, image_features).view_as(embeddings)

    def prefill(
        self,
        input_ids: Tensor,
        image_tokens: Tensor,
        image_features: Tensor,
        cache: LayerCache,
        *,
        hidden: Hidden,
    ) -> Tensor | None:
        """Fill the cache with the prompt; see :meth:`Decoder.forward` for ``hidden``.

        ``input_ids``: int64 (batch, S); ``image_tokens``: bool (batch, S), the tokens that see one another.
        """
        embeddings = self.embed_prompt(input_ids, image_features)
        return self.decoder.forward(embeddings, cache, mask=prefill_mask(image_tokens), hidden=hidden)

    def context(self, keys: Tensor, values: Tensor, valid: Tensor, depth: Tensor) -> Context:
        """Return the expert's context of the valid tokens, after the depth gate where there is one.

        ``keys``, ``values``: (layers, tokens, kv_width), one observation; ``valid``, ``depth``: bool (tokens,).
        Tokens that the expert may not read are left out, which equals masking them.
        """
        assert self.expert is not None
        if self._compiled_context is not None:
            k, v = self._compiled_context.project(keys, values, valid, depth)
            return Context(k.unsqueeze(1), v.unsqueeze(1))
        if self.depth_gate is not None and bool((depth & valid).any()):
            keys, values = self.depth_gate.apply(keys, values, depth & valid, valid)
        return self.expert.context(keys[:, valid].unsqueeze(1), values[:, valid].unsqueeze(1))
