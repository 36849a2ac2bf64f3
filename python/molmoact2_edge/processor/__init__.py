"""Camera images, instruction and state to the model's inputs, and its outputs to the robot's units."""

from molmoact2_edge.processor.convention import SO100_SO101, JointConvention, joint_convention
from molmoact2_edge.processor.images import ImageInputs, check_frames
from molmoact2_edge.processor.processor import Processor, Prompt
from molmoact2_edge.processor.task import normalize_task
from molmoact2_edge.processor.tokenizer import PromptTokenizer

__all__ = [
    "SO100_SO101",
    "ImageInputs",
    "JointConvention",
    "Processor",
    "Prompt",
    "PromptTokenizer",
    "check_frames",
    "joint_convention",
    "normalize_task",
]
