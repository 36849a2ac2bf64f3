"""Which implementation serves a model: decided once, by device, number type, shapes and how the package was built."""

from __future__ import annotations

import torch

from molmoact2_edge.build import build_config
from molmoact2_edge.model.changed_cells import ChangedCells, DeviceCells, HostCells
from molmoact2_edge.model.cuda_integrator import CudaIntegrator
from molmoact2_edge.model.cuda_operators import CudaOperators
from molmoact2_edge.model.execution import recording
from molmoact2_edge.model.integrator import Integrator, TorchIntegrator
from molmoact2_edge.model.molmoact2 import MolmoAct2
from molmoact2_edge.model.operators import Operators, TorchOperators
from molmoact2_edge.model.patches import DevicePatches, HostPatches, PatchSource


def patches_for(model: MolmoAct2) -> PatchSource:
    """Return where a model's patches are resized."""
    if model.device.type == "cuda" and build_config()["cuda"]:
        from molmoact2_edge._core import cuda

        return DevicePatches(cuda.resize_to_patches)
    return HostPatches()


def changed_cells_for(model: MolmoAct2) -> ChangedCells:
    """Return where a model's changed depth cells are found: where its frames are."""
    if model.config.enable_depth_reasoning and model.device.type == "cuda" and build_config()["cuda"]:
        from molmoact2_edge._core import cuda

        return DeviceCells(cuda.DepthDiff, model.device)
    return HostCells()


def operators_for(model: MolmoAct2) -> Operators:
    """Return the fastest operators for a model's decoder."""
    config, rope = model.config.text_config, model.decoder.rope
    if serves_kernels(model) and CudaOperators.fits(config):
        from molmoact2_edge._core import cuda

        return CudaOperators(config, rope, cuda)
    return TorchOperators(config, rope)


def integrator_for(model: MolmoAct2) -> Integrator:
    """Return the fastest integrator for a model's expert."""
    if model.expert is None or not serves_kernels(model):
        return TorchIntegrator(model)
    from molmoact2_edge._core import cuda

    try:
        # Torch hands over tensors of the current device only; packing waits for all of it.
        with recording, torch.cuda.device(model.device):
            return CudaIntegrator(model, cuda)
    except ValueError as error:
        return TorchIntegrator(model, f"the kernel refuses: {error}")


def serves_kernels(model: MolmoAct2) -> bool:
    """Return whether the compiled CUDA kernels, which are for bf16, can serve a model."""
    return model.device.type == "cuda" and model.dtype == torch.bfloat16 and build_config()["cuda"]
