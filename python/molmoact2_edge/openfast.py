"""OpenFAST: a chunk of normalized actions as a short sequence of tokens, and back.

Encoding takes the orthonormal DCT-II of a chunk along time, multiplies by `scale`, rounds half to even,
subtracts `min_token`, floors at 0, and writes each integer, time-major, as one Unicode character of a text
that byte-level BPE tokenizes. Decoding undoes all but the rounding and the floor. Both run in compiled code;
this module reads and writes the files and fits new tokenizers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from molmoact2_edge._core import kernels
from molmoact2_edge.byte_level import byte_characters, character_classes, read_tables
from molmoact2_edge.errors import CheckpointError, InputError

_TOKENIZER_FILE = "tokenizer.json"
_TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_PROCESSOR_CONFIG_FILE = "processor_config.json"
_INT32 = np.iinfo(np.int32)
# Where the surrogates begin; integers from here on have no character of their own.
_FIRST_SURROGATE = 0xD800


class OpenFast:
    """Tokenizer of action chunks; immutable and safe to share between threads.

    Args:
        tokenizer_json: content of a `tokenizer.json` that holds a byte-level BPE.
        scale: factor on the DCT coefficients before rounding.
        min_token: rounded coefficient that becomes character 0.
        time_horizon: steps of the chunks it was fitted on, kept for `save` only; None where they differed.
        action_dim: likewise, the dimensions.

    Raises:
        CheckpointError: the tokenizer is not a kind that encodes actions, or a number is out of range.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        scale: float,
        min_token: int,
        time_horizon: int | None = None,
        action_dim: int | None = None,
    ) -> None:
        if not (math.isfinite(scale) and scale > 0):
            raise CheckpointError(f"OpenFAST scale must be positive and finite, got {scale}")
        if not _INT32.min <= min_token <= _INT32.max:
            raise CheckpointError(f"OpenFAST min_token must fit in 32 bits, got {min_token}")
        tables = read_tables(tokenizer_json)
        self._tokenizer_json = tokenizer_json
        self._time_horizon = time_horizon
        self._action_dim = action_dim
        self._codec = kernels.OpenFastCodec(
            token_bytes=tables.token_bytes,
            byte_ids=tables.byte_ids,
            merges=tables.merges,
            splits_words=tables.splits_words,
            character_classes=character_classes() if tables.splits_words else np.empty(0, np.uint8),
            scale=float(scale),
            min_token=min_token,
        )

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> OpenFast:
        """Reads `tokenizer.json` and `processor_config.json` from a directory; executes nothing in it.

        Raises:
            CheckpointError: a file is missing, damaged, or describes something that is no OpenFAST tokenizer.
        """
        directory = Path(path)
        processor = _read_object(directory / _PROCESSOR_CONFIG_FILE)
        config_path = directory / _TOKENIZER_CONFIG_FILE
        tokenizer_config = _read_object(config_path) if config_path.exists() else {}
        if tokenizer_config.get("clean_up_tokenization_spaces"):
            raise CheckpointError(
                f"{config_path}: clean_up_tokenization_spaces is on, which changes decoded coefficients; "
                "expected false"
            )
        where = directory / _PROCESSOR_CONFIG_FILE
        try:
            return cls(
                _read_text(directory / _TOKENIZER_FILE),
                scale=_number(processor, "scale", where),
                min_token=_integer(processor, "min_token", where),
                time_horizon=_optional_integer(processor, "time_horizon", where),
                action_dim=_optional_integer(processor, "action_dim", where),
            )
        except CheckpointError as error:
            if str(directory) in str(error):
                raise
            raise CheckpointError(f"{directory}: {error}") from error

    @classmethod
    def fit(cls, chunks: Iterable[ArrayLike], *, vocab_size: int = 1024, scale: float = 10.0) -> OpenFast:
        """Trains a tokenizer on example chunks.

        The alphabet is every integer between the least and the greatest rounded coefficient of the examples;
        greater ones cannot be encoded later, smaller ones are floored.

        Args:
            chunks: normalized actions, each (T, D), finite; T may differ between chunks.
            vocab_size: number of tokens at most; fewer come out when no pair of tokens repeats any more.
            scale: factor on the DCT coefficients before rounding: greater keeps more detail, in more tokens.

        Raises:
            InputError: no chunks, one of wrong shape or not finite, or vocab_size below the alphabet's size.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

        if not (math.isfinite(scale) and scale > 0):
            raise InputError(f"scale must be positive and finite, got {scale}")
        coefficients = [_quantized(chunk, scale, index) for index, chunk in enumerate(chunks)]
        if not coefficients:
            raise InputError("fit needs at least one chunk, got none")
        min_token = int(min(rounded.min() for rounded in coefficients))
        code_count = int(max(rounded.max() for rounded in coefficients)) - min_token + 1
        if code_count > _FIRST_SURROGATE:
            raise InputError(
                f"coefficients span {code_count} integers, expected at most {_FIRST_SURROGATE}; "
                "lower the scale, or normalize the actions to [-1, 1]"
            )
        byte_to_character = byte_characters()
        alphabet = sorted(
            {byte_to_character[byte] for code in range(code_count) for byte in chr(code).encode()}
        )
        if vocab_size < len(alphabet):
            raise InputError(
                f"vocab_size is {vocab_size}, but the alphabet of these chunks alone needs {len(alphabet)}; "
                "raise vocab_size or lower the scale"
            )

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        tokenizer.train_from_iterator(
            ("".join(map(chr, (rounded - min_token).ravel().tolist())) for rounded in coefficients),
            trainers.BpeTrainer(
                vocab_size=vocab_size, min_frequency=2, show_progress=False, initial_alphabet=alphabet
            ),
            length=len(coefficients),
        )
        horizons = {rounded.shape[0] for rounded in coefficients}
        dims = {rounded.shape[1] for rounded in coefficients}
        return cls(
            tokenizer.to_str(pretty=True),
            scale=scale,
            min_token=min_token,
            time_horizon=horizons.pop() if len(horizons) == 1 else None,
            action_dim=dims.pop() if len(dims) == 1 else None,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the files that `from_pretrained` and the public processor read; creates the directory."""
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        scale = int(self.scale) if self.scale.is_integer() else self.scale
        _replace(directory / _TOKENIZER_FILE, self._tokenizer_json)
        _replace_json(
            directory / _TOKENIZER_CONFIG_FILE,
            {
                "clean_up_tokenization_spaces": False,
                "processor_class": "UniversalActionProcessor",
                "tokenizer_class": "PreTrainedTokenizerFast",
            },
        )
        _replace_json(
            directory / _PROCESSOR_CONFIG_FILE,
            {
                "processor_class": "UniversalActionProcessor",
                "scale": scale,
                "vocab_size": self.vocab_size,
                "min_token": self.min_token,
                "time_horizon": self._time_horizon,
                "action_dim": self._action_dim,
            },
        )

    @property
    def vocab_size(self) -> int:
        """Number of token ids, from 0 on."""
        return self._codec.vocab_size

    @property
    def scale(self) -> float:
        """Factor on the DCT coefficients before rounding."""
        return self._codec.scale

    @property
    def min_token(self) -> int:
        """Rounded coefficient that becomes character 0; smaller ones are floored to it."""
        return self._codec.min_token

    def encode(self, chunk: ArrayLike) -> list[int]:
        """Token ids of a chunk (T, D) of finite, normalized actions.

        Raises:
            InputError: wrong rank, nothing in it, not finite, or a coefficient outside the alphabet.
        """
        values = _chunk_array(chunk)
        try:
            return self._codec.encode(values)
        except ValueError as error:
            raise InputError(f"cannot encode a chunk of shape {values.shape}: {error}") from error

    def decode(
        self, tokens: Sequence[int] | NDArray[np.integer], horizon: int, action_dim: int
    ) -> tuple[NDArray[np.float64], bool]:
        """The chunk that token ids stand for, and whether they stand for one.

        Returns:
            `(chunk, True)` with chunk (horizon, action_dim) float64. When an id is out of range, the bytes
            are no text, or the number of coefficients is not horizon * action_dim: `(empty, False)` with empty
            (0, action_dim), never zeros, which would move a robot to the middle of its range.

        Raises:
            InputError: tokens are not one row of integers, or horizon or action_dim is out of range.
        """
        if not 1 <= horizon <= kernels.MAX_STEPS:
            raise InputError(f"horizon must be 1 to {kernels.MAX_STEPS}, got {horizon}")
        if not 1 <= action_dim <= kernels.MAX_ACTION_DIMS:
            raise InputError(f"action_dim must be 1 to {kernels.MAX_ACTION_DIMS}, got {action_dim}")
        ids = tokens if isinstance(tokens, list) else _token_array(tokens)
        try:
            chunk = self._codec.decode(ids, int(horizon), int(action_dim))
        except TypeError as error:
            raise InputError("tokens must be one row of integers, got a list with something else") from error
        if chunk is None:
            return np.empty((0, action_dim)), False
        return chunk, True


def _chunk_array(chunk: ArrayLike) -> NDArray[np.float64]:
    try:
        # Always a copy: the compiled code reads it without holding the interpreter's lock.
        values = np.array(chunk, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise InputError(f"a chunk must be an array of numbers (T, D): {error}") from error
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"a chunk must be (T, D) with T and D at least 1, got shape {values.shape}")
    if values.shape[0] > kernels.MAX_STEPS or values.shape[1] > kernels.MAX_ACTION_DIMS:
        raise InputError(
            f"a chunk may be at most ({kernels.MAX_STEPS}, {kernels.MAX_ACTION_DIMS}), got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise InputError("a chunk must be finite, got NaN or infinity")
    return values


def _token_array(tokens: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
    ids = np.asarray(tokens)
    if ids.ndim != 1 or (ids.size > 0 and ids.dtype.kind not in "iu"):
        raise InputError(f"tokens must be one row of integers, got {ids.dtype} of shape {ids.shape}")
    # An unsigned id past 2^63 becomes negative here, which is out of range all the same.
    return ids.astype(np.int64)


def _quantized(chunk: ArrayLike, scale: float, index: int) -> NDArray[np.int64]:
    try:
        rounded = kernels.quantize_chunk(_chunk_array(chunk), scale)
        if np.abs(rounded).max() > _INT32.max:
            raise InputError(f"its coefficients reach {np.abs(rounded).max():.3g}; normalize the actions")
    except ValueError as error:
        raise InputError(f"chunk {index} cannot be fitted: {error}") from error
    return rounded.astype(np.int64)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _read_object(path: Path) -> dict[str, object]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _number(config: dict[str, object], key: str, path: Path) -> float:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CheckpointError(f"{path}: {key} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise CheckpointError(f"{path}: {key} is too large") from error


def _integer(config: dict[str, object], key: str, path: Path) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"{path}: {key} must be an integer, got {value!r}")
    return value


def _optional_integer(config: dict[str, object], key: str, path: Path) -> int | None:
    return None if config.get(key) is None else _integer(config, key, path)


def _replace_json(path: Path, content: dict[str, object]) -> None:
    _replace(path, json.dumps(content, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    """Writes beside the target and renames, so that a reader never meets half a file."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
