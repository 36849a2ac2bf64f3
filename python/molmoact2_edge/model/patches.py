"""Where a static call gets its patches from: resized on the host and uploaded, or resized on the device."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor

from molmoact2_edge.model.cuda_operators import current_stream
from molmoact2_edge.model.staging import StagedInputs
from molmoact2_edge.processor import ImageInputs


class PatchBuffers(Protocol):
    """The patches of one camera setting, in memory that never moves."""

    def send(self, images: ImageInputs) -> None:
        """Queue the upload of an observation of this setting."""
        ...

    def patches(self) -> Tensor:
        """Return float32 patches (crops, patches, patch_dim); may be recorded."""
        ...


class PatchSource(Protocol):
    """Makes the buffers of a camera setting."""

    @property
    def name(self) -> str:
        """What resizes, for ``backends``."""
        ...

    @property
    def reads_frames(self) -> bool:
        """Whether frames are uploaded as they are; then nobody needs ``ImageInputs.pixel_values``."""
        ...

    def key(self, images: ImageInputs) -> Hashable:
        """Return what two observations must have in common to use the same buffers."""
        ...

    def buffers(self, images: ImageInputs, device: torch.device) -> PatchBuffers:
        """Return buffers for observations like this one."""
        ...


class HostPatches:
    """The processor resizes on the CPU, and patches are uploaded."""

    name = "cpu"
    reads_frames = False

    def key(self, images: ImageInputs) -> Hashable:
        return images.patches_shape

    def buffers(self, images: ImageInputs, device: torch.device) -> PatchBuffers:
        return HostPatchBuffers(images.patches_shape, device)


class HostPatchBuffers:
    """See :class:`HostPatches`."""

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self._inputs = StagedInputs({"patches": (shape, torch.float32)}, device)

    def send(self, images: ImageInputs) -> None:
        self._inputs.send(patches=images.pixel_values)

    def patches(self) -> Tensor:
        return self._inputs.tensors["patches"]


class ResizeKernel(Protocol):
    """``molmoact2_edge._core.cuda.resize_to_patches``; see csrc/kernels/vision_input/vision_input.h."""

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
    ) -> None: ...


class DevicePatches:
    """Frames are uploaded as they are, a quarter of their patches' bytes or less, and resized on the device."""

    name = "cuda kernel"
    reads_frames = True

    def __init__(self, resize: ResizeKernel, *, stream: Callable[[], int] = current_stream) -> None:
        self._resize = resize
        self._stream = stream

    def key(self, images: ImageInputs) -> Hashable:
        sizes = tuple(frame.shape for frame in images.frames)
        return images.patches_shape, images.crops, sizes, images.patch_grid, images.patch_size

    def buffers(self, images: ImageInputs, device: torch.device) -> PatchBuffers:
        return DevicePatchBuffers(images, device, self._resize, self._stream)


class DevicePatchBuffers:
    """See :class:`DevicePatches`. Sizes and crops are those of the first observation, and part of the recording."""

    def __init__(
        self,
        images: ImageInputs,
        device: torch.device,
        resize: ResizeKernel,
        stream: Callable[[], int],
    ) -> None:
        self._resize = resize
        self._stream = stream
        self._crops = images.crops
        self._grid, self._patch = images.patch_grid, images.patch_size
        self._inputs = StagedInputs(
            {str(number): (frame.shape, torch.uint8) for number, frame in enumerate(images.frames)}, device
        )
        self._patches = torch.zeros(images.patches_shape, dtype=torch.float32, device=device)

    def send(self, images: ImageInputs) -> None:
        self._inputs.send(**{str(number): frame for number, frame in enumerate(images.frames)})

    def patches(self) -> Tensor:
        patches = iter(self._patches.unbind(0))
        stream = self._stream()
        for number, crops in enumerate(self._crops):
            frame = self._inputs.tensors[str(number)]
            for crop in crops:
                self._resize(
                    frame,
                    next(patches),
                    size=crop.frame_size,
                    origin=crop.origin,
                    grid=self._grid,
                    patch=self._patch,
                    stream=stream,
                )
        return self._patches
