"""Opening a checkpoint: finding its files, on disk or on the Hugging Face Hub, and checking them before use."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmoact2_edge.checkpoint import lerobot
from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.checkpoint.json_section import read_json
from molmoact2_edge.checkpoint.norm_stats import NormStats
from molmoact2_edge.checkpoint.processor_config import ProcessorConfig
from molmoact2_edge.checkpoint.weights import Weights
from molmoact2_edge.errors import CheckpointError

_SETTINGS_PATTERNS = ["*.json"]
_WEIGHTS_PATTERNS = ["*.safetensors"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ACTION_TOKENIZER_FOLDER = "action_tokenizer"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose configuration, statistics and tensor headers have been read and fit one another."""

    path: Path
    config: ModelConfig
    norm_stats: NormStats
    weights: Weights
    processor_config: ProcessorConfig
    tokenizer_path: Path
    action_tokenizer_path: Path | None
    """Folder of the OpenFAST files, if the checkpoint carries one: see `find_action_tokenizer`."""

    @classmethod
    def open(
        cls, path_or_id: str | Path, *, offline: bool = False, revision: str | None = None
    ) -> Checkpoint:
        """Opens a checkpoint directory, or a model of the Hub by its id such as `allenai/MolmoAct2-SO100_101`.

        Only data files are fetched and read (JSON and safetensors); nothing in a checkpoint is executed.

        Args:
            path_or_id: A directory, or a Hub id where no such directory exists.
            offline: Never touch the network: a Hub id must be in the local cache. `HF_HUB_OFFLINE` does the same.
            revision: Branch, tag or commit of the Hub repository.

        Raises:
            CheckpointError: A file is missing, damaged or unsupported, or files contradict one another.
        """
        directory = _directory(path_or_id, _SETTINGS_PATTERNS + _WEIGHTS_PATTERNS, offline, revision)
        values = read_json(directory / "config.json")
        settings = directory
        from_lerobot = lerobot.is_lerobot_config(values)
        if from_lerobot and not lerobot.holds_network_config(values):
            settings = _base_of_lerobot(directory, values, offline)
            network_values = lerobot.network_config(values, read_json(settings / "config.json"))
        else:
            network_values = values
        generation = settings / "generation_config.json"
        config = ModelConfig.from_json(network_values, read_json(generation) if generation.exists() else None)
        config.require_token_ids()

        stats_path = directory / _plain_name(config.norm_stats_filename)
        if stats_path.exists() or not from_lerobot:
            norm_stats = NormStats.from_json(read_json(stats_path), default_horizon=config.max_action_horizon)
        else:
            norm_stats = lerobot.read_norm_stats(directory, values, default_horizon=config.max_action_horizon)
        _check_embodiments(config, norm_stats)

        processor_config = _processor_config(settings)
        if processor_config.patch_size != config.vit_config.image_patch_size:
            raise CheckpointError(
                f"{settings}: processor_config.json cuts patches of {processor_config.patch_size} pixels, "
                f"config.json: vit_config expects {config.vit_config.image_patch_size}"
            )
        tokenizer_path = next(
            (one / "tokenizer.json" for one in (directory, settings) if (one / "tokenizer.json").exists()),
            None,
        )
        if tokenizer_path is None:
            raise CheckpointError(
                f"{settings / 'tokenizer.json'}: file is missing; prompts cannot be built without it"
            )
        return cls(
            path=directory,
            config=config,
            norm_stats=norm_stats,
            weights=Weights.open(directory),
            processor_config=processor_config,
            tokenizer_path=tokenizer_path,
            action_tokenizer_path=find_action_tokenizer(directory) or find_action_tokenizer(settings),
        )


def find_action_tokenizer(directory: Path) -> Path | None:
    """The folder inside a checkpoint that holds an OpenFAST tokenizer, or None.

    It is a direct subfolder with a `tokenizer.json` and a `processor_config.json` that has `scale` and `min_token`.
    `action_tokenizer/` wins; another name counts where it is the only such folder, because two would be a guess.
    """
    candidates = [one for one in sorted(directory.iterdir()) if one.is_dir() and _holds_open_fast(one)]
    for candidate in candidates:
        if candidate.name == _ACTION_TOKENIZER_FOLDER:
            return candidate
    return candidates[0] if len(candidates) == 1 else None


def _holds_open_fast(folder: Path) -> bool:
    settings = folder / "processor_config.json"
    if not settings.is_file() or not (folder / "tokenizer.json").is_file():
        return False
    values = read_json(settings)
    return isinstance(values, dict) and {"scale", "min_token"} <= values.keys()


def _directory(path_or_id: str | Path, patterns: list[str], offline: bool, revision: str | None) -> Path:
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(
            f"{path}: expected a checkpoint directory, this is a file; name the folder around it"
        )
    if not _HUB_ID.fullmatch(str(path_or_id)):
        raise CheckpointError(
            f"{path}: no such directory, and no Hub id either (those look like `owner/name`)"
        )
    return _snapshot(str(path_or_id), patterns, offline, revision)


def _snapshot(hub_id: str, patterns: list[str], offline: bool, revision: str | None) -> Path:
    # Imported here, because a local checkpoint must load without the Hub's client ever starting.
    from huggingface_hub import snapshot_download

    offline = offline or is_offline()
    try:
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=offline)
        )
    except Exception as error:
        # The client raises its own, its HTTP library's and OS errors; each means that the files are not here.
        reason = (
            "offline mode forbids fetching it, and the local cache does not hold it" if offline else error
        )
        raise CheckpointError(f"{hub_id}: no such directory, and as a Hub id: {reason}") from error


def is_offline() -> bool:
    """Whether the environment forbids the Hub's client to use the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def _base_of_lerobot(directory: Path, values: dict[str, Any], offline: bool) -> Path:
    base = values.get("checkpoint_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{directory / 'config.json'}: a LeRobot policy without the network's configuration: expected `vit_config` "
            "and its siblings, or `checkpoint_path` naming the base checkpoint"
        )
    revision = values.get("checkpoint_revision")
    return _directory(base, _SETTINGS_PATTERNS, offline, revision if isinstance(revision, str) else None)


def _plain_name(name: str) -> str:
    if Path(name).name != name:
        raise CheckpointError(f"config.json: `norm_stats_filename` must be a file beside it, got {name!r}")
    return name


def _processor_config(settings: Path) -> ProcessorConfig:
    current, older = settings / "processor_config.json", settings / "preprocessor_config.json"
    if not current.exists() and not older.exists():
        raise CheckpointError(f"{current}: file is missing; images cannot be prepared without it")
    return ProcessorConfig.from_json(
        read_json(current) if current.exists() else {}, read_json(older) if older.exists() else None
    )


def _check_embodiments(config: ModelConfig, norm_stats: NormStats) -> None:
    for tag, embodiment in norm_stats.tags.items():
        if embodiment.action_horizon > config.max_action_horizon:
            raise CheckpointError(
                f"norm_stats.json: {tag}: action_horizon {embodiment.action_horizon} is beyond the model's "
                f"max_action_horizon {config.max_action_horizon}"
            )
        if embodiment.action_dim > config.max_action_dim:
            raise CheckpointError(
                f"norm_stats.json: {tag}: {embodiment.action_dim} action dimensions are beyond the model's "
                f"max_action_dim {config.max_action_dim}"
            )
        if config.n_obs_steps > embodiment.action_horizon:
            raise CheckpointError(
                f"norm_stats.json: {tag}: no step is left of action_horizon {embodiment.action_horizon} "
                f"from n_obs_steps {config.n_obs_steps} on"
            )
