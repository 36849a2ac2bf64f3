"""LeRobot's own MolmoAct2 as the other side of a benchmark.

It is imported by path from the unpacked folder `molmoact2_hf_model` of LeRobot 0.6.1 (`tools/bench/setup_peer.sh`);
LeRobot itself is never imported. The network needs torch and transformers 5.4 or 5.5 only; the processors also need
torchvision, einops, requests and scipy.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = "molmoact2_hf_model"
_PACKAGE = "lerobot_molmoact2"
# What the processors hand to the network, by the names of `forward`.
Inputs = dict[str, Tensor]


def find_folder(path: Path) -> Path:
    """Return the folder `molmoact2_hf_model` at ``path`` or anywhere below it.

    Raises:
        FileNotFoundError: There is none, or more than one.
    """
    found = sorted(p.parent for p in path.rglob("modeling_molmoact2.py") if p.parent.name == FOLDER)
    if len(found) != 1:
        raise FileNotFoundError(
            f"{path}: expected one unpacked folder {FOLDER!r} at or below it, found {len(found)}; "
            "tools/bench/setup_peer.sh makes one"
        )
    return found[0]


def folder_digest(folder: Path) -> str:
    """Return a SHA-256 over the folder's Python files, to tell later which code was measured."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def lerobot_version(folder: Path) -> str | None:
    """Return LeRobot's version from the metadata unpacked with the folder, or None where it is missing."""
    root = folder.parents[3]
    for metadata in root.glob("lerobot-*.dist-info/METADATA"):
        for line in metadata.read_text().splitlines():
            if line.startswith("Version: "):
                return line.removeprefix("Version: ")
    return None


def import_module(folder: Path, name: str) -> types.ModuleType:
    """Import one module of the folder, with relative imports within it working."""
    if _PACKAGE not in sys.modules:
        _define_torchvision_operators()
        parent = types.ModuleType(_PACKAGE)
        parent.__path__ = []
        sys.modules[_PACKAGE] = parent
        # The action tokenizer asks LeRobot's policy module, one level up, for a Hub token. Nothing here uses the Hub.
        policy = types.ModuleType(f"{_PACKAGE}.modeling_molmoact2")
        policy._hf_token = lambda: None  # type: ignore[attr-defined]
        sys.modules[policy.__name__] = policy
        spec = importlib.util.spec_from_file_location(
            f"{_PACKAGE}.{FOLDER}", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{_PACKAGE}.{FOLDER}.{name}")


# Kept alive: operators vanish with the library object that defined them.
_torchvision_library: torch.library.Library | None = None


def _define_torchvision_operators() -> None:
    """Declare the two operators without which a torchvision built for another torch fails at import.

    A torchvision that matches torch brings them itself and is left alone.
    """
    global _torchvision_library
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    except ImportError:
        return
    else:
        return
    _torchvision_library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        _torchvision_library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@dataclass(frozen=True)
class PeerOutcome:
    """What one call of the peer gave; arrays on the CPU."""

    actions: np.ndarray[Any, Any]
    token_ids: list[int] | None
    depth_codes: np.ndarray[Any, Any] | None
    depth_cache: Mapping[str, Any] | None


class Peer:
    """One MolmoAct2 of LeRobot with weights that the caller fills in."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        norm_stats: Mapping[str, Any],
        weight: Callable[[str, tuple[int, ...]], Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Build the network on ``device`` and fill every parameter with ``weight(name, shape)``."""
        modeling = import_module(folder, "modeling_molmoact2")
        configuration = import_module(folder, "configuration_molmoact2")
        self.folder = folder
        self.device = device
        self.dtype = dtype
        # Without storage first: the peer would otherwise spend minutes on initial values of billions of parameters.
        with torch.device("meta"):
            model = modeling.MolmoAct2ForConditionalGeneration(configuration.MolmoAct2Config(**config))
        self.model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(weight(name, tuple(parameter.shape)))
        self.model._molmoact2_robot_stats = modeling._RobotStats(norm_stats)

    def attention(self) -> dict[str, str]:
        """Return the attention implementation that each part of the network is configured for."""
        config = self.model.config
        return {
            "vision": str(config.vit_config._attn_implementation),
            "connector": str(config.adapter_config._attn_implementation),
            "decoder": str(config.text_config._attn_implementation),
            "expert": "sdpa",
        }

    def noise(self, horizon: int, seed: int) -> np.ndarray[Any, Any]:
        """Return the noise (horizon, max_action_dim) that `predict` draws for ``seed``, as float32."""
        shape = (1, horizon, self.model.config.max_action_dim)
        dtype = self.model.model.action_expert.action_embed.weight.dtype
        drawn = torch.randn(shape, device=self.device, dtype=dtype, generator=self._generator(seed))
        return drawn[0].float().cpu().numpy()

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def predict(
        self,
        processor: Callable[..., Mapping[str, Any]],
        images: Sequence[np.ndarray[Any, Any]],
        task: str,
        state: np.ndarray[Any, Any],
        norm_tag: str,
        *,
        num_steps: int,
        seed: int,
        think: bool,
        depth_cache: Mapping[str, Any] | None,
        cuda_graph: bool,
    ) -> PeerOutcome:
        """One whole call; returns when the actions are on the CPU."""
        result = self.model.predict_action(
            processor=processor,
            images=list(images),
            task=task,
            state=state,
            norm_tag=norm_tag,
            inference_action_mode="continuous",
            enable_depth_reasoning=think,
            depth_cache=depth_cache,
            num_steps=num_steps,
            generator=self._generator(seed),
            enable_cuda_graph=cuda_graph,
        )
        ids, codes = result.generated_token_ids, result.depth_bins
        return PeerOutcome(
            actions=result.actions[0].cpu().numpy(),
            token_ids=None if ids is None else ids[0].tolist(),
            depth_codes=None if codes is None else codes[0].cpu().numpy(),
            depth_cache=result.depth_cache if think else None,
        )

    @contextmanager
    def stage_clock(self) -> Any:
        """Within this context, collect seconds per stage of eager calls; the mapping fills up as calls return.

        The device is synchronized at every boundary, so that such calls are slower than plain ones.
        """
        seconds: dict[str, float] = {}
        backbone = self.model.model
        stages: list[tuple[Any, str, Callable[..., str]]] = [
            (backbone, "build_batched_images", lambda *a, **k: "batching"),
            (backbone.vision_backbone, "forward", lambda *a, **k: "vision"),
            (backbone.transformer.wte, "forward", lambda *a, **k: "embedding"),
            (backbone.transformer, "forward", _prefill_or_decode),
            (backbone, "_depth_gate_from_condition", lambda *a, **k: "gate"),
            (backbone, "_apply_depth_gate_to_layer_kv_states", lambda *a, **k: "gate"),
            (backbone.action_expert, "prepare_context", lambda *a, **k: "context"),
            (backbone.action_expert, "get_or_prepare_modulation_cache", lambda *a, **k: "modulation"),
            (backbone, "_run_action_flow_loop", lambda *a, **k: "flow"),
        ]
        for owner, name, stage in stages:
            setattr(owner, name, self._timed(getattr(owner, name), stage, seconds))
        try:
            yield seconds
        finally:
            for owner, name, _ in stages:
                delattr(owner, name)

    def _timed(
        self, function: Callable[..., Any], stage: Callable[..., str], seconds: dict[str, float]
    ) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            self.synchronize()
            begin = time.perf_counter()
            result = function(*arguments, **keywords)
            self.synchronize()
            name = stage(*arguments, **keywords)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin
            return result

        return timed

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _prefill_or_decode(*_: Any, **keywords: Any) -> str:
    position = keywords["cache_position"]
    return "prefill" if int(position[0]) == 0 else "decode"


def load_processor(folder: Path, checkpoint: Path) -> Callable[..., Mapping[str, Any]]:
    """Return the peer's processor of a checkpoint directory, from the same files that LeRobot reads.

    LeRobot always builds Qwen's tokenizer class. The tiny checkpoints name a plainer one, which is built for them.
    Neither runs code from the checkpoint, as transformers' automatic classes would offer to.

    Raises:
        ImportError: A package that only the processors need is missing.
    """
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    named = json.loads((checkpoint / "tokenizer_config.json").read_text()).get("tokenizer_class", "")
    tokenizer_class = Qwen2Tokenizer if named.startswith("Qwen2Tokenizer") else PreTrainedTokenizerFast
    settings = json.loads((checkpoint / "processor_config.json").read_text())
    parts = {}
    for part, module, kind in (
        ("image_processor", "image_processing_molmoact2", "MolmoAct2ImageProcessor"),
        ("video_processor", "video_processing_molmoact2", "MolmoAct2VideoProcessor"),
    ):
        keywords = {k: v for k, v in settings.get(part, {}).items() if k not in ("auto_map", f"{part}_type")}
        parts[part] = getattr(import_module(folder, module), kind)(**keywords)
    names = (
        "image_use_col_tokens",
        "use_single_crop_col_tokens",
        "use_single_crop_start_token",
        "video_use_col_tokens",
        "use_frame_special_tokens",
    )
    processing = import_module(folder, "processing_molmoact2")
    processor: Callable[..., Mapping[str, Any]] = processing.MolmoAct2Processor(
        tokenizer=tokenizer_class.from_pretrained(checkpoint, local_files_only=True),
        **parts,
        **{name: settings[name] for name in names if name in settings},
    )
    return processor


def fixed_processor(inputs: Inputs) -> Callable[..., Mapping[str, Any]]:
    """Return a processor that answers every call with the same tensors."""

    def processor(**_: Any) -> Mapping[str, Any]:
        return dict(inputs)

    return processor
