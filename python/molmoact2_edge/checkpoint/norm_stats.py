"""Statistics that scale a robot's states and actions, one set per embodiment: `norm_stats.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from molmoact2_edge.checkpoint.json_section import Section
from molmoact2_edge.errors import CheckpointError, InputError
from molmoact2_edge.types import BoolArray, FloatArray

FORMAT = "molmoact2_norm_stats.v1"

NORM_MODES: dict[str, tuple[str, ...]] = {
    "q01_q99": ("q01", "q99"),
    "q10_q90": ("q10", "q90"),
    "min_max": ("min", "max"),
    "mean_std": ("mean", "std"),
    "none": (),
}
"""Each mode with the two statistics that it needs: low and high, or mean and deviation."""

_LARGEST = float(np.finfo(np.float32).max)
_STATISTICS = ("mean", "std", "min", "max", "q01", "q99", "q10", "q90")


@dataclass(frozen=True)
class Stats:
    """Statistics of one vector, state or action. All arrays are (dim,), float32 as in the public code."""

    dim: int
    values: Mapping[str, FloatArray]
    """By the file's own key: mean, std, min, max, q01, q99, q10, q90; those that the mode uses."""
    mask: BoolArray
    """False where a dimension passes through as it is."""
    names: tuple[str, ...] = ()
    """Of the dimensions, for people; empty where the file has none that fit."""

    @classmethod
    def from_json(cls, values: object, where: str, norm_mode: str) -> Stats:
        """Checks one `action_stats` or `state_stats` object; `where` names it in errors.

        Raises:
            CheckpointError: A statistic that `norm_mode` needs is missing, sizes differ, or one is not finite.
        """
        section = Section(values, where)
        needed = NORM_MODES[norm_mode]
        for key in needed:
            if section.get(key) is None:
                raise CheckpointError(f"{where}: norm_mode {norm_mode!r} needs `{key}`, which is missing")
        # Where the mode itself needs none, any statistic still tells the size.
        optional = _STATISTICS if norm_mode == "none" else ("min", "max")
        keys = dict.fromkeys([*needed, *(key for key in optional if section.get(key) is not None)])
        arrays = {key: _vector(section, key) for key in keys}
        mask = section.get("mask")
        if mask is not None and not (isinstance(mask, list) and all(isinstance(one, bool) for one in mask)):
            section.refuse("mask", "a list of true and false")
        sizes = {key: len(array) for key, array in arrays.items()}
        if mask is not None:
            sizes["mask"] = len(mask)
        if len(set(sizes.values())) != 1 or 0 in sizes.values():
            raise CheckpointError(f"{where}: expected statistics of one common size, got {sizes or 'none'}")
        dim = next(iter(sizes.values()))
        names = section.get("names")
        named = isinstance(names, list) and len(names) == dim
        return cls(
            dim=dim,
            values=arrays,
            mask=np.ones(dim, dtype=np.bool_) if mask is None else np.array(mask, dtype=np.bool_),
            names=tuple(str(name) for name in names) if named else (),
        )


def _vector(section: Section, key: str) -> FloatArray:
    value = section.get(key)
    flat = isinstance(value, list) and all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in value
    )
    # Compared as Python numbers, so that one beyond float32's range is refused and not turned into infinity.
    if not flat or not all(abs(one) <= _LARGEST for one in value):
        section.refuse(key, "a flat list of finite numbers")
    return np.array(value, dtype=np.float32)


@dataclass(frozen=True)
class Embodiment:
    """One robot as a checkpoint knows it: sizes, wording of the prompt, statistics."""

    tag: str
    action_horizon: int
    """Steps that the model predicts."""
    n_action_steps: int
    """Steps of them that a prediction returns."""
    setup_type: str
    control_mode: str
    action_stats: Stats
    state_stats: Stats
    camera_keys: tuple[str, ...] = ()
    joint_signs: tuple[float, ...] | None = None
    joint_offsets: tuple[float, ...] | None = None
    """Signs and offsets that a LeRobot checkpoint declares: model = signs * robot + offsets, in degrees."""

    @property
    def action_dim(self) -> int:
        return self.action_stats.dim

    @property
    def state_dim(self) -> int:
        return self.state_stats.dim


@dataclass(frozen=True)
class NormStats:
    """All embodiments of a checkpoint and the mode in which their statistics are applied."""

    norm_mode: str
    tags: Mapping[str, Embodiment]
    tags_are_named: bool = True
    """False where the file names no tag and so holds one embodiment only, which then answers to every tag."""

    @classmethod
    def from_json(cls, values: object, *, default_horizon: int) -> NormStats:
        """Checks a parsed `norm_stats.json`.

        Args:
            values: The parsed file.
            default_horizon: Action horizon of an embodiment that names none: the model's largest.

        Raises:
            CheckpointError: Unknown format or mode, no embodiment, or statistics that are missing or damaged.
        """
        section = Section(values, "norm_stats.json")
        section.choice("format", (FORMAT,), FORMAT)
        norm_mode = section.choice("norm_mode", tuple(NORM_MODES))
        by_tag = section.section("metadata_by_tag")
        tags: dict[str, Embodiment] = {}
        for tag in by_tag:
            metadata = by_tag.section(tag)
            where = f"norm_stats.json: {tag}"
            horizon = metadata.integer("action_horizon", default_horizon)
            tags[tag] = Embodiment(
                tag=tag,
                action_horizon=horizon,
                n_action_steps=metadata.integer("n_action_steps", horizon),
                setup_type=str(metadata.get("setup_type", "")),
                control_mode=str(metadata.get("control_mode", "")),
                action_stats=Stats.from_json(
                    metadata.get("action_stats", {}), f"{where}: action_stats", norm_mode
                ),
                state_stats=Stats.from_json(
                    metadata.get("state_stats", {}), f"{where}: state_stats", norm_mode
                ),
                camera_keys=tuple(str(key) for key in metadata.get("camera_keys", [])),
            )
        if not tags:
            raise CheckpointError(
                "norm_stats.json: expected at least one embodiment in `metadata_by_tag`, got none"
            )
        return cls(norm_mode=norm_mode, tags=tags)

    def embodiment(self, norm_tag: str | None) -> Embodiment:
        """The embodiment of a tag; without a tag, the only one there is.

        Raises:
            InputError: The tag is unknown, or missing where there are several. The message lists them.
        """
        if len(self.tags) == 1 and (norm_tag is None or not self.tags_are_named):
            return next(iter(self.tags.values()))
        known = ", ".join(repr(tag) for tag in sorted(self.tags))
        if norm_tag is None:
            raise InputError(f"norm_tag: this checkpoint has several embodiments, name one of {known}")
        if not isinstance(norm_tag, str) or norm_tag not in self.tags:
            raise InputError(f"norm_tag: expected one of {known}, got {norm_tag!r}")
        return self.tags[norm_tag]
