"""One observation through two implementations: first whether they agree, then which is faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from agreement import Array, DisagreementError, exact, relative_error, within
from lerobot_model import Inputs, Peer, PeerOutcome, fixed_processor
from random_network import Prepared, PreparedProcessor

from molmoact2_edge import Policy, Prediction
from molmoact2_edge.checkpoint import NormStats, ProcessorConfig
from molmoact2_edge.policy import DepthCache
from molmoact2_edge.processor import ImageInputs, Prompt


@dataclass(frozen=True)
class Observation:
    """The arguments of one call, the same for both sides. ``previous`` is the frame whose depth map it continues."""

    name: str
    images: list[Array]
    task: str
    state: Array
    norm_tag: str
    num_steps: int
    think: bool
    previous: Observation | None = None


@dataclass(frozen=True)
class DepthCaches:
    """What each side remembers of the frame before."""

    ours: DepthCache | None = None
    peer: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Pair:
    """Two implementations that hold the same weights, and the seed of the noise that both start from."""

    name: str
    ours: Policy
    peer: Peer
    peer_processor: Callable[..., Mapping[str, Any]]
    seed: int

    def on_tensors(self, settings: ProcessorConfig, stats: NormStats, prepared: Prepared) -> Pair:
        """Return the same networks with both processors replaced by one prepared observation."""
        processor = PreparedProcessor(self.ours.config, settings, stats, prepared)
        inputs = network_inputs(prepared.images, prepared.prompt)
        return replace(self, ours=Policy(self.ours.model, processor), peer_processor=fixed_processor(inputs))

    def noise(self, call: Observation) -> Array:
        """Return the noise that the peer will draw inside its own call, so that both integrate from the same."""
        return self.peer.noise(self.ours.processor.embodiment(call.norm_tag).action_horizon, self.seed)

    def run_ours(self, call: Observation, cache: DepthCache | None, noise: Array | None = None) -> Prediction:
        """One whole call; ``noise``: drawn ahead, so that imitating the peer's generator costs us nothing."""
        return self.ours.predict(
            call.images,
            call.task,
            call.state,
            call.norm_tag,
            num_steps=call.num_steps,
            noise=self.noise(call) if noise is None else noise,
            think=call.think,
            depth_cache=cache,
        )

    def run_peer(
        self, call: Observation, cache: Mapping[str, Any] | None, *, cuda_graph: bool
    ) -> PeerOutcome:
        return self.peer.predict(
            self.peer_processor,
            call.images,
            call.task,
            call.state,
            call.norm_tag,
            num_steps=call.num_steps,
            seed=self.seed,
            think=call.think,
            depth_cache=cache,
            cuda_graph=cuda_graph,
        )

    def sides(self, call: Observation, caches: DepthCaches) -> dict[str, Callable[[], object]]:
        """Return what there is to time: ours, the peer's eager mode and, on CUDA, the peer with its graphs."""
        noise = self.noise(call)
        sides: dict[str, Callable[[], object]] = {
            "ours": lambda: self.run_ours(call, caches.ours, noise),
            "peer_eager": lambda: self.run_peer(call, caches.peer, cuda_graph=False),
        }
        if self.peer.device.type == "cuda":
            sides["peer_cuda_graph"] = lambda: self.run_peer(call, caches.peer, cuda_graph=True)
        return sides


def network_inputs(images: ImageInputs, prompt: Prompt) -> Inputs:
    """Return our processed inputs by the names of the peer's `forward`, with a batch axis where it has one."""
    return {
        "input_ids": torch.from_numpy(prompt.input_ids)[None],
        "token_type_ids": torch.from_numpy(prompt.token_type_ids.astype(np.int64))[None],
        "pixel_values": torch.from_numpy(images.pixel_values),
        "image_token_pooling": torch.from_numpy(images.pooling),
        "image_grids": torch.from_numpy(images.grids),
        "image_num_crops": torch.from_numpy(images.num_crops),
    }


def compare_processors(pair: Pair, call: Observation) -> Prepared:
    """Run both processors on one observation and return what they agree on.

    Raises:
        DisagreementError: Ids, token types, pixels or pooling indices differ.
    """
    processor = pair.ours.processor
    images = processor.images(call.images)
    prompt = processor.prompt(
        images, task=call.task, state=call.state, norm_tag=call.norm_tag, depth=call.think
    )
    theirs = pair.peer_processor(text=prompt.text, images=call.images, return_tensors="pt")
    differences: list[str] = []
    for name, tensor in network_inputs(images, prompt).items():
        differences += exact(name, tensor.numpy(), torch.as_tensor(theirs[name]).to(tensor.dtype).numpy())
    if differences:
        raise DisagreementError(f"{pair.name}, {call.name}, processors", differences)
    return Prepared(call.images, images, prompt)


def compare_calls(
    pair: Pair, call: Observation, *, cuda_graph: bool, tolerance: float
) -> tuple[DepthCaches, dict[str, Any]]:
    """Compare both answers to one observation, after those to the frames before it.

    Returns:
        The depth caches with which this observation is to be called again, and how close the answers are.

    Raises:
        DisagreementError: Depth tokens or codes differ, or actions by more than ``tolerance`` of their range.
    """
    before = _follow(pair, call.previous, cuda_graph) if call.previous else DepthCaches()
    prediction = pair.run_ours(call, before.ours)
    outcome = pair.run_peer(call, before.peer, cuda_graph=cuda_graph)
    scale = np.maximum(np.ptp(outcome.actions, axis=0), 1e-6)
    differences = [
        *([] if prediction.valid else [f"our prediction is invalid: {prediction.reason}"]),
        *exact("depth tokens", prediction.token_ids, outcome.token_ids),
        *exact("depth codes", prediction.depth_codes, outcome.depth_codes),
        *within("actions", prediction.actions, outcome.actions, scale, tolerance),
    ]
    if differences:
        mode = "CUDA graph" if cuda_graph else "eager"
        raise DisagreementError(f"{pair.name}, {call.name}, peer {mode}", differences)
    report: dict[str, Any] = {
        "actions_largest_difference_of_range": relative_error(prediction.actions, outcome.actions, scale),
        "tolerance_of_range": tolerance,
    }
    if call.think:
        changed = prediction.depth_update_mask
        report["depth_codes_equal"] = True
        report["decoded_cells"] = pair.ours.config.num_depth_codes if changed is None else int(changed.sum())
    return before, report


def _follow(pair: Pair, call: Observation, cuda_graph: bool) -> DepthCaches:
    """Run a frame and the frames before it, and return what the next one continues from."""
    before = _follow(pair, call.previous, cuda_graph) if call.previous else DepthCaches()
    prediction = pair.run_ours(call, before.ours)
    outcome = pair.run_peer(call, before.peer, cuda_graph=cuda_graph)
    return DepthCaches(prediction.depth_cache, outcome.depth_cache)


def alternate(
    sides: Mapping[str, Callable[[], object]], rounds: int, synchronize: Callable[[], None]
) -> dict[str, list[float]]:
    """Call every side once a round, each round starting with another side; return seconds per side."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(rounds):
        for name in _rotated(list(sides), index):
            synchronize()
            began = time.perf_counter()
            sides[name]()
            synchronize()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def _rotated(names: list[str], index: int) -> Iterator[str]:
    first = index % len(names)
    yield from names[first:] + names[:first]


def median_stages(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median milliseconds of every stage over several calls; a stage that did not run counts as zero."""
    names = {name: None for run in runs for name in run}
    return {name: 1e3 * statistics.median(run.get(name, 0.0) for run in runs) for name in names}
