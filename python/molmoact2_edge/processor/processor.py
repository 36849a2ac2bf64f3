"""The processor of one checkpoint: every step between a robot's observation and the model, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from molmoact2_edge.checkpoint import Checkpoint, Embodiment, ModelConfig, NormStats, ProcessorConfig
from molmoact2_edge.errors import CheckpointError, InputError
from molmoact2_edge.processor.images import ImageInputs, prepare_images
from molmoact2_edge.processor.normalization import normalize, unnormalize
from molmoact2_edge.processor.prompt import expand_images, prompt_text
from molmoact2_edge.processor.task import normalize_task
from molmoact2_edge.processor.tokenizer import PromptTokenizer
from molmoact2_edge.types import BoolArray, FloatArray, Image, IntArray

_ROUND_TRIP = (
    1e-3  # what float32 loses in normalizing and back is far less; a command that far off is the same
)


@dataclass(frozen=True)
class Prompt:
    """A prompt as text, with `<|image|>` not yet expanded, and as the model reads it."""

    text: str
    input_ids: IntArray
    """(S,): images expanded, beginning token included."""
    token_type_ids: BoolArray
    """(S,): true for every token of an image; these see one another in both directions."""


class Processor:
    """Prepares observations for one checkpoint. Holds no state between calls."""

    def __init__(
        self,
        config: ModelConfig,
        processor_config: ProcessorConfig,
        norm_stats: NormStats,
        tokenizer: PromptTokenizer,
    ) -> None:
        self._config = config
        self._processor_config = processor_config
        self._norm_stats = norm_stats
        self._tokenizer = tokenizer
        self._image_token_ids = np.array(sorted(config.image_token_ids), dtype=np.int64)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Processor:
        """Raises CheckpointError where the tokenizer is damaged or does not fit the configuration's token ids."""
        config = checkpoint.config
        tokenizer = PromptTokenizer.from_file(
            checkpoint.tokenizer_path, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id
        )
        _check_token_ids(config, checkpoint.processor_config, tokenizer)
        return cls(config, checkpoint.processor_config, checkpoint.norm_stats, tokenizer)

    def embodiment(self, norm_tag: str | None) -> Embodiment:
        """The embodiment of a tag; without a tag, the only one. Raises InputError, listing the tags."""
        return self._norm_stats.embodiment(norm_tag)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches in every crop."""
        return self._processor_config.patch_grid

    def images(self, images: Sequence[Image]) -> ImageInputs:
        """Frames (H, W, 3) uint8 RGB, main camera first. Raises InputError for any other type, shape or count."""
        return prepare_images(images, self._processor_config)

    def prompt(
        self,
        images: ImageInputs,
        *,
        task: str,
        state: ArrayLike,
        norm_tag: str | None,
        depth: bool,
        normalize_language: bool = True,
    ) -> Prompt:
        """Builds and tokenizes the prompt.

        Args:
            images: What `images` gave for the frames.
            task: The instruction.
            state: The robot's state (D,) in raw units, in the convention of the checkpoint.
            norm_tag: The embodiment.
            depth: Whether the model is to predict a depth map first.
            normalize_language: Whether the instruction is brought into the form of training.

        Raises:
            InputError: Unknown tag, wrong state size, a state that is not finite, a task that is no text or holds the
                tokenizer's control tokens, or a prompt longer than the model's positions.
        """
        embodiment = self.embodiment(norm_tag)
        text = prompt_text(
            num_images=len(images.num_crops),
            task=self._checked_task(task, normalize_language),
            normalized_state=self.normalize_state(state, norm_tag),
            embodiment=embodiment,
            config=self._config,
            depth=depth,
        )
        input_ids = self._tokenizer.encode(expand_images(text, images.grids.tolist(), self._processor_config))
        # A depth prediction appends its codes between a start and an end token.
        length = len(input_ids) + (self._config.num_depth_codes + 2 if depth else 0)
        limit = self._config.text_config.max_position_embeddings
        if length > limit:
            raise InputError(
                f"prompt: {length} tokens are more than the model's {limit} positions "
                f"(max_position_embeddings); {int(images.tokens_per_image.sum())} of them are images. "
                "Shorten the task or use fewer cameras"
            )
        return Prompt(text, input_ids, np.isin(input_ids, self._image_token_ids))

    def normalize_state(self, state: ArrayLike, norm_tag: str | None) -> FloatArray:
        """A state (D,) in raw units to the model's. Raises InputError for a wrong size or a number not finite."""
        embodiment = self.embodiment(norm_tag)
        vector = _finite_array(state, "state")
        if vector.shape != (embodiment.state_dim,):
            raise InputError(
                f"state: expected {embodiment.state_dim} numbers for {embodiment.tag!r}, got shape {vector.shape}"
            )
        return normalize(vector, embodiment.state_stats, self._norm_stats.norm_mode)

    def normalize_actions(self, actions: ArrayLike, norm_tag: str | None) -> FloatArray:
        """Actions (..., D) in raw units to the model's. Raises InputError for a wrong size or a number not finite."""
        embodiment = self.embodiment(norm_tag)
        array = _finite_array(actions, "actions")
        if array.shape[-1:] != (embodiment.action_dim,):
            raise InputError(
                f"actions: expected (..., {embodiment.action_dim}) for {embodiment.tag!r}, got shape {array.shape}"
            )
        return normalize(array, embodiment.action_stats, self._norm_stats.norm_mode)

    def inexpressible_actions(self, actions: ArrayLike, norm_tag: str | None) -> BoolArray:
        """Which of the actions (..., D) in raw units do not survive normalization: clipped, or of a constant joint."""
        stats, mode = self.embodiment(norm_tag).action_stats, self._norm_stats.norm_mode
        back = unnormalize(self.normalize_actions(actions, norm_tag), stats, mode)
        return ~np.isclose(back, np.asarray(actions, dtype=np.float32), rtol=_ROUND_TRIP, atol=_ROUND_TRIP)

    def unnormalize_actions(self, chunk: FloatArray, norm_tag: str | None) -> FloatArray:
        """The model's chunk to the steps and units of the robot.

        Args:
            chunk: (T, at least D) float32; columns beyond the embodiment's are padding.
            norm_tag: The embodiment.

        Returns:
            (n_action_steps, D) float32 in raw units: the steps from `n_obs_steps - 1` on, fewer where the chunk ends.

        Raises:
            InputError: Unknown tag, or a chunk with too few columns or no step left.
        """
        embodiment = self.embodiment(norm_tag)
        if chunk.ndim != 2 or chunk.shape[1] < embodiment.action_dim or len(chunk) < self._config.n_obs_steps:
            raise InputError(
                f"chunk: expected (at least {self._config.n_obs_steps} steps, at least {embodiment.action_dim}) "
                f"for {embodiment.tag!r}, got shape {chunk.shape}"
            )
        first = self._config.n_obs_steps - 1
        steps = chunk[first : first + embodiment.n_action_steps, : embodiment.action_dim]
        raw = unnormalize(
            np.asarray(steps, dtype=np.float32), embodiment.action_stats, self._norm_stats.norm_mode
        )
        return np.ascontiguousarray(raw)

    def _checked_task(self, task: str, normalize_language: bool) -> str:
        if not isinstance(task, str):
            raise InputError(f"task: expected text, got {type(task).__name__}")
        # The tokenizer reads such text as control tokens, so that an instruction could rewrite the rest of the prompt.
        found = next((token for token in self._tokenizer.control_tokens if token in task), None)
        if found is not None:
            raise InputError(f"task: must not hold the control token {found!r}")
        return normalize_task(task) if normalize_language else task


def _finite_array(values: ArrayLike, name: str) -> FloatArray:
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numbers, got {values!r}") from error
    if not np.isfinite(array).all():
        raise InputError(f"{name}: expected finite numbers, got {array.tolist()}")
    return array


def _check_token_ids(config: ModelConfig, images: ProcessorConfig, tokenizer: PromptTokenizer) -> None:
    """Markers that the prompt writes as text must come out as the ids under which the model knows them."""
    expected = {
        "<im_patch>": config.image_patch_id,
        "<im_start>": config.image_start_token_id,
        "<im_end>": config.image_end_token_id,
        "<state_start>": config.state_start_token_id,
        "<state_0>": config.state_token_start_id,
        "<action_output>": config.action_output_token_id,
    }
    if images.image_use_col_tokens or images.use_single_crop_col_tokens:
        expected["<im_col>"] = config.image_col_id
    for token, expected_id in expected.items():
        found = tokenizer.id_of(token)
        if found is None or (expected_id is not None and found != expected_id):
            raise CheckpointError(
                f"tokenizer.json: expected the token {token!r} with id {expected_id} as config.json says, got {found}; "
                "the tokenizer belongs to another checkpoint"
            )
