"""Image and prompt settings of a checkpoint: `processor_config.json`, or its older split into two files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from molmoact2_edge.checkpoint.json_section import Section

_PIL_BILINEAR = 2


@dataclass(frozen=True)
class ProcessorConfig:
    """Image settings, then the switches that decide which image markers a prompt holds."""

    crop_mode: str
    size: tuple[int, int]
    """Height and width of one crop in pixels."""
    patch_size: int
    pooling_size: tuple[int, int]
    """Rows and columns of patches that become one prompt token."""
    max_crops: int
    overlap_margins: tuple[int, int]
    """Patches that a crop shares with its left (upper) and its right (lower) neighbour."""

    image_use_col_tokens: bool
    use_single_crop_col_tokens: bool
    use_single_crop_start_token: bool

    @classmethod
    def from_json(cls, values: object, older_image_values: object = None) -> ProcessorConfig:
        """Checks the parsed settings.

        Args:
            values: The parsed `processor_config.json`, or an empty object where only the older file exists.
            older_image_values: The parsed `preprocessor_config.json`, read where `values` lacks them.

        Raises:
            CheckpointError: A key is missing, has a wrong type or unsupported value, or contradicts another.
        """
        section = Section(values, "processor_config.json")
        if section.get("image_processor") is not None:
            image = section.section("image_processor")
        else:
            image = Section(
                older_image_values if older_image_values is not None else {}, "preprocessor_config.json"
            )
        if image.get("resample", _PIL_BILINEAR) != _PIL_BILINEAR:
            image.refuse("resample", f"{_PIL_BILINEAR} (bilinear), the only supported filter")
        for key in ("image_mean", "image_std"):
            # Images are scaled by x / 255 * 2 - 1; any other mean or deviation would change that line.
            if image.get(key, [0.5] * 3) != [0.5] * 3:
                image.refuse(key, "the supported [0.5, 0.5, 0.5]")
        rows, columns = image.integers("pooling_size", length=2)
        before, after = (
            image.integers("overlap_margins", length=2) if image.get("overlap_margins") else (4, 4)
        )
        use_col_tokens = section.boolean("image_use_col_tokens", True)
        config = cls(
            crop_mode=image.choice("crop_mode", ("resize", "overlap-and-resize-c2")),
            size=_size(image),
            patch_size=image.integer("patch_size"),
            pooling_size=(rows, columns),
            max_crops=image.integer("max_crops", 8),
            overlap_margins=(before, after),
            image_use_col_tokens=use_col_tokens,
            use_single_crop_col_tokens=section.boolean("use_single_crop_col_tokens", use_col_tokens),
            use_single_crop_start_token=section.boolean("use_single_crop_start_token", True),
        )
        if min(rows, columns) < 1:
            image.refuse("pooling_size", "two integers of at least 1")
        if min(before, after) < 0:
            image.refuse("overlap_margins", "two integers of at least 0")
        if any(side < config.patch_size or side % config.patch_size for side in config.size):
            image.refuse("size", f"multiples of patch_size = {config.patch_size}")
        if config.crop_mode != "resize" and min(config.patch_grid) <= before + after:
            image.refuse(
                "overlap_margins", f"smaller together than a crop's {min(config.patch_grid)} patches"
            )
        return config

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches in one crop."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size


def _size(image: Section) -> tuple[int, int]:
    if isinstance(image.get("size"), Mapping):
        size = image.section("size")
        return size.integer("height"), size.integer("width")
    height, width = image.integers("size", length=2)
    return height, width
