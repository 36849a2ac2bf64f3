"""The public face of the model: load a checkpoint, then turn camera images, an instruction and a state into actions."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.checkpoint.files import Checkpoint
from molmoact2_edge.checkpoint.norm_stats import Embodiment
from molmoact2_edge.devices import resolve_device, resolve_dtype
from molmoact2_edge.errors import InputError
from molmoact2_edge.guide import ActionGuide
from molmoact2_edge.model.backends import changed_cells_for, integrator_for, operators_for, patches_for
from molmoact2_edge.model.changed_cells import ChangedCells, HostCells
from molmoact2_edge.model.depth_decode import DepthTokens, decode_depth, decode_depth_from_draft
from molmoact2_edge.model.execution import DirectExecution, Execution, GraphExecution
from molmoact2_edge.model.generate import Generated, generate
from molmoact2_edge.model.integrator import FlowSetting
from molmoact2_edge.model.molmoact2 import MolmoAct2
from molmoact2_edge.model.pipeline import (
    CallPlan,
    EagerPipeline,
    FlowInputs,
    Intermediates,
    Pipeline,
    prefix_length,
)
from molmoact2_edge.model.static_pipeline import StaticPipeline
from molmoact2_edge.openfast import OpenFast
from molmoact2_edge.prediction import DepthCache, Outcome, Prediction, Trace
from molmoact2_edge.processor import ImageInputs, Processor, Prompt
from molmoact2_edge.processor.convention import JointConvention, joint_convention
from molmoact2_edge.timing import Stopwatch
from molmoact2_edge.types import FloatArray, Image, IntArray

__all__ = ["ActionMode", "DepthCache", "ExecutionMode", "Policy", "Prediction", "Think", "Trace"]

ExecutionMode = Literal["auto", "eager", "static", "graph"]
ActionMode = Literal["continuous", "discrete"]
Think = Literal["adaptive", "exact"]

# Discrete generation stops here when no end token came: tokens per step of the horizon, as in the public model.
_TOKENS_PER_STEP = 16
# The shortest allowance for what follows the last depth cell, as in the public model.
_MIN_CLOSING_TOKENS = 8


@dataclass(frozen=True)
class _Observation:
    """The images of a call that the pipeline still holds: everything that the next call may reuse."""

    images: ImageInputs
    first_image: Image
    prefix: IntArray
    """The prompt up to its last image token. Nothing in it depends on task or state."""


@dataclass(frozen=True)
class _Guide:
    """A guide in the model's units and shape, (T, max_action_dim) and (T,), and how many values had to be clipped."""

    actions: FloatArray
    weights: FloatArray
    clipped: int


class Policy:
    """A MolmoAct2 checkpoint ready to predict. Calls from several threads are served one after the other."""

    def __init__(
        self,
        model: MolmoAct2,
        processor: Processor,
        *,
        action_tokenizer: OpenFast | None = None,
        execution: ExecutionMode | Execution = "auto",
    ) -> None:
        """See :meth:`from_pretrained` for ``execution``; an object runs the stages of a static call itself."""
        self.model = model
        self.processor = processor
        self.action_tokenizer = action_tokenizer
        self._lock = threading.Lock()
        self._observation: _Observation | None = None
        self._pipeline = _pipeline(model, processor.patch_grid, execution)
        eager = isinstance(self._pipeline, EagerPipeline)
        self._changed_cells: ChangedCells = HostCells() if eager else changed_cells_for(model)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        execution: ExecutionMode = "auto",
        offline: bool = False,
        revision: str | None = None,
    ) -> Policy:
        """Load a checkpoint directory, or a Hub id through ``huggingface_hub``.

        Args:
            path_or_id: A directory in the Hugging Face or LeRobot layout, or ``owner/name``.
            device: ``"cpu"``, ``"cuda"`` (also ``"cuda:1"``) or ``"auto"``: CUDA where there is one.
            dtype: ``"float32"``, ``"bfloat16"`` or ``"auto"``: bfloat16 on CUDA, float32 on the CPU.
            execution: ``"graph"`` (CUDA only) records the call as CUDA graphs, one per length of prompt, when it first
                comes; :meth:`warmup` does that ahead. ``"static"`` runs the same kernels one by one, on any device.
                ``"eager"`` has shapes that fit each call: torch, and on a CPU in float32 the compiled flow. ``"auto"``:
                graphs on CUDA, else eager.
            offline: Use the local Hub cache only; the network is never touched.
            revision: Branch, tag or commit on the Hub.

        Raises:
            CheckpointError: A file or tensor is missing, damaged, or does not fit the configuration.
            InputError: ``device``, ``dtype`` or ``execution`` is not usable on this machine.
        """
        target = resolve_device(device)
        number = resolve_dtype(dtype, target)
        checkpoint = Checkpoint.open(path_or_id, offline=offline, revision=revision)
        tokenizer = checkpoint.action_tokenizer_path
        return cls(
            MolmoAct2.load(
                checkpoint.config,
                checkpoint.weights,
                dtype=number,
                device=target,
                # The compiled loop takes contexts of any length; static calls always have one of the same.
                compile_flow=execution in ("auto", "eager"),
            ),
            Processor.from_checkpoint(checkpoint),
            action_tokenizer=None if tokenizer is None else OpenFast.from_pretrained(tokenizer),
            execution=execution,
        )

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def backends(self) -> dict[str, str]:
        """What computes each part that has more than one implementation.

        Device, dtype and ``execution`` decide it at load. On CUDA graphs it also says for which lengths of prompt the
        call has been recorded, and on which kernels attention was found to run.
        """
        found = self._pipeline.backends
        if self.config.enable_depth_reasoning:
            found["changed cells"] = self._changed_cells.name
        return found

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def predict(
        self,
        images: Sequence[Image] | None,
        task: str,
        state: npt.ArrayLike,
        norm_tag: str | None = None,
        *,
        action_mode: ActionMode = "continuous",
        num_steps: int | None = None,
        noise: npt.ArrayLike | None = None,
        seed: int | None = None,
        guide: ActionGuide | None = None,
        think: bool | Think = False,
        depth_cache: DepthCache | None = None,
        reuse_images: bool = False,
        normalize_language: bool = True,
        convention: str = "none",
        trace: Trace | None = None,
    ) -> Prediction:
        """Predict one chunk of actions.

        Args:
            images: Camera frames in the embodiment's order, each (H, W, 3) uint8 RGB; None with ``reuse_images``.
            task: The instruction in plain language.
            state: (state_dim,) joint state in the robot's units.
            norm_tag: The embodiment, a key of ``norm_stats.json``; may be left out when there is only one.
            action_mode: ``"continuous"`` integrates the flow; ``"discrete"`` generates OpenFAST tokens.
            num_steps: Euler steps of the flow; None takes the checkpoint's.
            noise: (T, max_action_dim) initial flow sample with T the embodiment's horizon; None draws it.
            seed: Makes the drawn noise reproducible.
            guide: Rows of the chunk before, aligned with this one, that the flow in-paints around: real-time chunking.
                At most as many rows as the chunk has; what the model cannot express is clipped and counted.
            think: Predict MolmoAct2-Think's depth map first and condition on it. With a depth cache, "adaptive" (or
                True) replays the cells that did not change since, as the public model does; "exact" decides all.
            depth_cache: ``Prediction.depth_cache`` of the frame before; also a draft that saves forwards.
            reuse_images: Take the images of the previous call as they were encoded then; only the rest of the prompt
                (task and state) and the actions are computed.
            normalize_language: Normalize the instruction as in training.
            convention: ``"so100_so101"`` maps a LeRobot-calibrated arm to the convention of those weights,
                ``"franka_droid"`` and ``"yam_dual"`` degrees and openings of 0 to 100 to that of theirs; a
                LeRobot-saved checkpoint may name its own, which is applied in any case.
            trace: Collects intermediate results.

        Raises:
            InputError: An argument has a wrong type, shape, size or value. Nothing was computed then.
        """
        if action_mode not in ("continuous", "discrete"):
            raise InputError(f"action_mode must be 'continuous' or 'discrete', got {action_mode!r}")
        with self._lock, torch.inference_mode(), self._pipeline.session():
            watch = Stopwatch(self.device)
            embodiment = self.processor.embodiment(norm_tag)
            self._check_mode(action_mode, think, depth_cache)
            steps = self._check_steps(num_steps)
            sample = self._noise(noise, seed, embodiment.action_horizon)
            joints = joints_of(embodiment, convention)
            guided = None if guide is None else self._guide(guide, action_mode, norm_tag, embodiment, joints)
            robot_state = np.asarray(state)
            seen = self._reusable(images) if reuse_images else None
            image_inputs = seen.images if seen is not None else self.processor.images(images or ())
            prompt = self.processor.prompt(
                image_inputs,
                task=task,
                state=robot_state if joints is None else joints.to_model(robot_state),
                norm_tag=norm_tag,
                depth=bool(think),
                normalize_language=normalize_language,
            )
            if trace is not None or not self._pipeline.reads_frames:
                _ = image_inputs.pixel_values  # resizes, here and now
            watch.lap("preprocess")
            discrete = action_mode == "discrete"
            generation_limit = _TOKENS_PER_STEP * embodiment.action_horizon if discrete else 0
            closing_limit = max(_MIN_CLOSING_TOKENS, self.config.max_action_horizon)
            depth_room = 2 + self.config.num_depth_codes + closing_limit if think else 0
            plan = CallPlan(depth_room + generation_limit, discrete and not think, embodiment.action_horizon)
            seen = self._begin(seen, images, image_inputs, prompt, plan, watch)
            outcome = Outcome(prompt.input_ids)
            if think:
                self._think(outcome, seen.first_image, think, depth_cache, closing_limit)
                watch.lap("depth")
            kept = None
            if trace is not None:
                trace.images, trace.prompt = image_inputs, prompt
                kept = self._keep_prefill(outcome, discrete)
            if discrete:
                chunk = self._discrete(outcome, generation_limit, embodiment)
                watch.lap("generate")
            else:
                chunk = self._continuous(outcome, sample, steps, embodiment, guided, kept)
            watch.settle()
            self._observation = seen
            if trace is not None and kept is not None:
                trace.keep(**kept.tensors)
            actions = self._finish(outcome, chunk, norm_tag, embodiment, joints)
            watch.lap("postprocess")
            return outcome.prediction(actions, watch.seconds())

    def warmup(
        self,
        images: Sequence[Image],
        task: str | Sequence[str],
        state: npt.ArrayLike,
        norm_tag: str | None = None,
        *,
        think: bool | Think = False,
        num_steps: int | None = None,
        convention: str = "none",
    ) -> float:
        """Get ready for calls like this one, so that the first real one is as fast as any; return the seconds it took.

        On CUDA graphs this records the whole call, the refresh of state with ``reuse_images=True`` and, with
        ``think``, every length in which depth codes are tried, for each of the tasks. The frames only need the right
        number and sizes. What was observed here is forgotten: the next call needs images.

        Raises:
            InputError: As :meth:`predict`.
            CaptureError: A stage could not be recorded.
        """
        begin = time.perf_counter()
        for one in [task] if isinstance(task, str) else task:
            for reuse in (False, True):
                # The second time nothing is new, and what the first left lazy is done.
                for _ in range(2):
                    self.predict(
                        None if reuse else images,
                        one,
                        state,
                        norm_tag,
                        num_steps=num_steps,
                        seed=0,
                        think=think,
                        reuse_images=reuse,
                        convention=convention,
                    )
            with self._lock, torch.inference_mode(), self._pipeline.session():
                self._pipeline.prepare()
        if think:
            with self._lock, torch.inference_mode(), self._pipeline.session():
                self._changed_cells.between(images[0], images[0], DepthTokens.of(self.config).cells)
        self._observation = None
        return time.perf_counter() - begin

    # Checks ------------------------------------------------------------------------------------------------------

    def _check_mode(
        self, action_mode: ActionMode, think: bool | Think, depth_cache: DepthCache | None
    ) -> None:
        config = self.config
        if think not in (True, False, "adaptive", "exact"):
            raise InputError(f"think must be True, False, 'adaptive' or 'exact', got {think!r}")
        if action_mode == "continuous" and self.model.expert is None:
            raise InputError("this checkpoint has no action expert; use action_mode='discrete'")
        if action_mode == "discrete" and self.action_tokenizer is None:
            raise InputError(
                "action_mode='discrete' needs the checkpoint's OpenFAST tokenizer, and none was found in its "
                "directory; set policy.action_tokenizer = OpenFast.from_pretrained(path)"
            )
        if action_mode == "discrete" and config.action_mode == "continuous":
            raise InputError("this checkpoint was trained for continuous actions only")
        if think and not config.enable_depth_reasoning:
            raise InputError(
                "think=True needs a MolmoAct2-Think checkpoint; this one has enable_depth_reasoning false"
            )
        if depth_cache is None:
            return
        if not think:
            raise InputError("depth_cache was given, but think is False; pass think=True or no cache")
        codes = np.asarray(depth_cache.codes)
        if codes.shape != (config.num_depth_codes,) or codes.dtype.kind not in "iu":
            raise InputError(
                f"depth_cache.codes must hold {config.num_depth_codes} integers, got shape {codes.shape} of "
                f"{codes.dtype}; start again with depth_cache=None"
            )
        if codes.min() < 0 or codes.max() >= config.num_depth_tokens:
            raise InputError(
                f"depth_cache.codes must lie in 0..{config.num_depth_tokens - 1}, got {codes.min()}..{codes.max()}; "
                "start again with depth_cache=None"
            )

    def _check_steps(self, num_steps: int | None) -> int:
        steps = self.config.flow_matching_num_steps if num_steps is None else num_steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InputError(f"num_steps must be an integer of at least 1, got {steps!r}")
        return steps

    def _noise(self, noise: npt.ArrayLike | None, seed: int | None, horizon: int) -> FloatArray:
        shape = (horizon, self.config.max_action_dim)
        if noise is None:
            generator = torch.Generator()
            if seed is None:
                generator.seed()
            else:
                generator.manual_seed(seed)
            drawn: FloatArray = torch.randn(shape, generator=generator).numpy()
            return drawn
        values = np.asarray(noise)
        if values.shape != shape or values.dtype.kind != "f":
            raise InputError(
                f"noise must be floating point of shape {shape} (horizon, max_action_dim), got {values.dtype} of "
                f"shape {values.shape}"
            )
        if not np.isfinite(values).all():
            raise InputError("noise must be finite, got NaN or infinity")
        return values.astype(np.float32)

    def _guide(
        self,
        guide: ActionGuide,
        action_mode: ActionMode,
        norm_tag: str | None,
        embodiment: Embodiment,
        joints: JointConvention | None,
    ) -> _Guide:
        if action_mode != "continuous":
            raise InputError(
                "guide: only the flow can in-paint; use action_mode='continuous' or leave it out"
            )
        first = self.config.n_obs_steps - 1  # rows before it are not returned
        rows, columns = guide.actions.shape
        most = embodiment.action_horizon - first
        if rows > most or columns != embodiment.action_dim:
            raise InputError(
                f"guide: expected at most {most} rows of {embodiment.action_dim} actions for {embodiment.tag!r}, "
                f"got shape {guide.actions.shape}"
            )
        actions = np.zeros((embodiment.action_horizon, self.config.max_action_dim), np.float32)
        weights = np.zeros(embodiment.action_horizon, np.float32)
        raw = guide.actions if joints is None else joints.to_model(guide.actions)
        actions[first : first + rows, :columns] = self.processor.normalize_actions(raw, norm_tag)
        weights[first : first + rows] = guide.weights
        clipped = self.processor.inexpressible_actions(raw, norm_tag)[guide.weights > 0.0]
        return _Guide(actions, weights, int(np.count_nonzero(clipped)))

    # Stages ------------------------------------------------------------------------------------------------------

    def _reusable(self, images: Sequence[Image] | None) -> _Observation:
        if images is not None:
            raise InputError(
                "with reuse_images=True pass images=None: the images of the previous call are used"
            )
        if self._observation is None:
            raise InputError("reuse_images=True needs an earlier call with images")
        return self._observation

    def _begin(
        self,
        seen: _Observation | None,
        images: Sequence[Image] | None,
        image_inputs: ImageInputs,
        prompt: Prompt,
        plan: CallPlan,
        watch: Stopwatch,
    ) -> _Observation:
        """Let the pipeline see the prompt, with new images or with those that it holds."""
        if seen is None:
            assert images is not None
            self._observation = None  # until the pipeline holds these images
            self._pipeline.observe(image_inputs, prompt, plan, watch)
            return _Observation(image_inputs, images[0].copy(), prompt.input_ids[: prefix_length(prompt)])
        if not np.array_equal(prompt.input_ids[: len(seen.prefix)], seen.prefix):
            raise InputError(
                "the prompt's image part differs from the previous call's; pass the images again"
            )
        self._pipeline.refresh(prompt, plan, watch)
        return seen

    def _think(
        self,
        outcome: Outcome,
        image: Image,
        think: bool | Think,
        depth_cache: DepthCache | None,
        closing_limit: int,
    ) -> None:
        tokens = DepthTokens.of(self.config)
        decoding = self._pipeline.decoding()
        if depth_cache is None:
            decoded = decode_depth(decoding, tokens, closing_limit=closing_limit)
        else:
            # On a GPU the prompt is still being computed while the frames are compared.
            if think == "exact":
                outcome.update_mask = np.ones(tokens.cells, dtype=np.bool_)
            else:
                outcome.update_mask = self._changed_cells.between(image, depth_cache.image, tokens.cells)
            decoded = decode_depth_from_draft(
                decoding,
                tokens,
                draft=depth_cache.codes,
                changed=outcome.update_mask,
                closing_limit=closing_limit,
            )
        outcome.add_depth(decoded, image)

    def _continuous(
        self,
        outcome: Outcome,
        noise: FloatArray,
        steps: int,
        embodiment: Embodiment,
        guide: _Guide | None,
        kept: Intermediates | None,
    ) -> FloatArray:
        padded_from = embodiment.action_dim if self.config.mask_action_dim_padding else None
        setting = FlowSetting(embodiment.action_horizon, steps, padded_from)
        inputs = FlowInputs(noise, setting)
        if guide is not None:
            outcome.guide_clipped = guide.clipped
            inputs = FlowInputs(noise, setting, guide.actions, guide.weights)
        return self._pipeline.act(outcome.cached_ids, inputs, kept)

    def _discrete(self, outcome: Outcome, limit: int, embodiment: Embodiment) -> FloatArray:
        config = self.config
        assert self.action_tokenizer is not None
        assert config.eos_token_id is not None
        generated = generate(self._pipeline.decoding(), end=config.eos_token_id, limit=limit)
        outcome.token_ids = generated.token_ids
        if not generated.complete:
            outcome.refuse(f"no end token came within {limit} generated tokens")
        codes = action_codes(generated, config)
        chunk, valid = self.action_tokenizer.decode(codes, embodiment.action_horizon, embodiment.action_dim)
        if not valid:
            outcome.refuse("the generated action tokens do not decode to a chunk")
        return chunk.astype(np.float32)

    def _keep_prefill(self, outcome: Outcome, discrete: bool) -> Intermediates:
        kept = Intermediates({})
        self._pipeline.keep_prefill(outcome.cached_ids, kept)
        if discrete:
            kept.tensors["first_logits"] = self._pipeline.decoding().logits()
        return kept

    def _finish(
        self,
        outcome: Outcome,
        chunk: FloatArray,
        norm_tag: str | None,
        embodiment: Embodiment,
        joints: JointConvention | None,
    ) -> FloatArray:
        if not np.isfinite(chunk).all():
            outcome.refuse("the predicted chunk is not finite")
        if outcome.reason:
            return np.empty((0, embodiment.action_dim), dtype=np.float32)
        actions = self.processor.unnormalize_actions(chunk, norm_tag)
        return actions if joints is None else joints.from_model(actions)


def action_codes(generated: Generated, config: ModelConfig) -> list[int]:
    """Return the OpenFAST ids between the first ``<action_start>`` and the ``<action_end>`` after it.

    A sequence without both markers, or with a token between them that is no action token, gives an empty list,
    which does not decode.
    """
    first = config.action_token_start_id
    tokens = generated.token_ids
    if first is None or config.action_start_token_id not in tokens:
        return []
    begin = tokens.index(config.action_start_token_id) + 1
    if config.action_end_token_id not in tokens[begin:]:
        return []
    codes = [token - first for token in tokens[begin : tokens.index(config.action_end_token_id, begin)]]
    return codes if all(0 <= code < config.num_action_tokens for code in codes) else []


def joints_of(embodiment: Embodiment, convention: str) -> JointConvention | None:
    """Return the joint convention to apply: the checkpoint's own where it has one, else the one asked for.

    Raises:
        InputError: The name is unknown, or it contradicts the checkpoint's own convention.
    """
    asked = joint_convention(convention)
    if embodiment.joint_signs is None or embodiment.joint_offsets is None:
        return asked
    own = JointConvention(embodiment.joint_signs, embodiment.joint_offsets)
    if asked is not None and asked != own:
        raise InputError(
            f"this checkpoint maps joints by signs {own.signs} and offsets {own.offsets} itself, which is not "
            f"{convention!r}; leave the convention at 'none'"
        )
    return own


def _pipeline(
    model: MolmoAct2, patch_grid: tuple[int, int], execution: ExecutionMode | Execution
) -> Pipeline:
    chosen = _execution(model.device, execution) if isinstance(execution, str) else execution
    if chosen is None:
        return EagerPipeline(model, patch_grid)
    if model.expert is not None and model.expert.flow_backend != "torch":
        raise InputError(
            "a static call needs a model without the compiled flow; load it with compile_flow=False"
        )
    return StaticPipeline(
        model, patch_grid, patches_for(model), operators_for(model), integrator_for(model), chosen
    )


def _execution(device: torch.device, name: ExecutionMode) -> Execution | None:
    """Return what runs static stages, or None for plain torch."""
    cuda = device.type == "cuda"
    if name not in ("auto", "eager", "static", "graph"):
        raise InputError(f"execution must be 'auto', 'eager', 'static' or 'graph', got {name!r}")
    if name == "graph" and not cuda:
        raise InputError(f"execution='graph' needs a CUDA device, and the model is on {device}")
    if name == "static":
        return DirectExecution(device)
    return GraphExecution(device) if cuda and name != "eager" else None
