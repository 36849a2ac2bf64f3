"""Frames that are resized on the device: the way to the kernel, whose place the CPU's takes here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from static.replay import ReplayedExecution
from torch import Tensor

from molmoact2_edge import Policy, build_config
from molmoact2_edge._core import kernels
from molmoact2_edge.model.integrator import TorchIntegrator
from molmoact2_edge.model.operators import TorchOperators
from molmoact2_edge.model.patches import DevicePatches
from molmoact2_edge.model.static_pipeline import StaticPipeline
from molmoact2_edge.policy import Trace

STREAM = 99
RNG = np.random.default_rng(1)
STATE = np.linspace(-20, 30, 6, dtype=np.float32)


class Resize:
    """Stands for ``_core.cuda.resize_to_patches``; refuses what its bindings refuse."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self,
        image: Tensor,
        patches: Tensor,
        *,
        size: tuple[int, int],
        origin: tuple[int, int],
        grid: tuple[int, int],
        patch: int,
        stream: int,
    ) -> None:
        assert stream == STREAM
        assert (image.dtype, image.dim(), image.shape[2]) == (torch.uint8, 3, 3)
        assert (patches.dtype, tuple(patches.shape)) == (
            torch.float32,
            (grid[0] * grid[1], 3 * patch * patch),
        )
        assert image.is_contiguous()
        assert patches.is_contiguous()
        self.calls += 1
        kernels.resize_to_patches(
            image.numpy(), size=size, origin=origin, grid=grid, patch=patch, patches=patches.numpy()
        )


def device_policy(loaded: Policy, execution: Any) -> tuple[Policy, Resize]:
    model, resize = loaded.model, Resize()
    policy = Policy(model, loaded.processor, execution=execution)
    policy._pipeline = StaticPipeline(
        model,
        loaded.processor.patch_grid,
        DevicePatches(resize, stream=lambda: STREAM),
        TorchOperators(model.config.text_config, model.decoder.rope),
        TorchIntegrator(model),
        execution,
    )
    return policy, resize


@pytest.mark.parametrize("name", ["tiny-base", "tiny-multicrop"])
def test_frames_go_up_as_they_are(reference: Path, name: str) -> None:
    loaded = Policy.from_pretrained(reference / name, device="cpu", dtype="float32", execution="static")
    policy, resize = device_policy(loaded, loaded._pipeline._execution)  # type: ignore[attr-defined]
    assert policy.backends["pixels"] == "cuda kernel"
    assert loaded.backends["pixels"] == "cpu"
    for seed, size in enumerate([(70, 90), (70, 90), (120, 100)]):
        frames = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(2)]
        # Rows that are not adjacent, as a camera's crop has them.
        frames[1] = frames[1][:, ::-1][:, 5:]
        options: dict[str, Any] = {"task": "reach", "state": STATE, "norm_tag": "so101_tiny", "seed": seed}
        found, expected = policy.predict(frames, **options), loaded.predict(frames, **options)
        np.testing.assert_array_equal(found.actions, expected.actions)
    assert resize.calls >= 6


def test_pixels_are_resized_on_the_host_only_for_a_trace(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Policy.from_pretrained(
        reference / "tiny-base", device="cpu", dtype="float32", execution="static"
    )
    policy, _ = device_policy(loaded, loaded._pipeline._execution)  # type: ignore[attr-defined]
    frames = [RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8)]
    options: dict[str, Any] = {"task": "reach", "state": STATE, "norm_tag": "so101_tiny", "seed": 0}
    trace = Trace()
    policy.predict(frames, **options, trace=trace)
    assert trace.images is not None
    assert trace.images.pixel_values.shape == trace.images.patches_shape
    policy.predict(frames, **options)
    assert policy._observation is not None
    assert "pixel_values" not in vars(policy._observation.images)
    loaded.predict(frames, **options)
    assert loaded._observation is not None
    assert "pixel_values" in vars(loaded._observation.images)


def test_another_size_of_frame_is_another_setting(
    reference: Path, replayed: Callable[[str], tuple[Policy, ReplayedExecution]]
) -> None:
    """The frame's size is in the recording; a replay for another would read the wrong rows."""
    loaded = Policy.from_pretrained(
        reference / "tiny-base", device="cpu", dtype="float32", execution="static"
    )
    seen: list[Any] = []

    class Execution(ReplayedExecution):
        def run(self, key: Any, stage: Any, watch: Any) -> None:
            # The stand-in for the kernel is no operation that a replay repeats, so stages run as they are.
            seen.append(key)
            stage(watch.lap)

    policy, _ = device_policy(loaded, Execution())
    options: dict[str, Any] = {"task": "reach", "state": STATE, "norm_tag": "so101_tiny", "seed": 0}
    for size in ((70, 90), (90, 70), (70, 90)):
        policy.predict([RNG.integers(0, 256, (*size, 3), dtype=np.uint8)], **options)
    assert seen[0] == seen[2]
    assert seen[0] != seen[1]


@pytest.mark.skipif(not build_config()["cuda"], reason="built without CUDA")
def test_the_door_to_the_kernel_refuses_what_it_cannot_read() -> None:
    from molmoact2_edge._core import cuda

    frame, patches = torch.zeros(28, 28, 3, dtype=torch.uint8), torch.zeros(4, 588)
    window: dict[str, Any] = {"size": (28, 28), "origin": (0, 0), "patch": 14, "stream": 0}
    with pytest.raises(TypeError, match="image must be on a CUDA device"):
        cuda.resize_to_patches(frame, patches, grid=(2, 2), **window)
    with pytest.raises(ValueError, match="grid must be at least"):
        cuda.resize_to_patches(frame, patches, grid=(0, 2), **window)
