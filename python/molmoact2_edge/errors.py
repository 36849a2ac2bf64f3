"""The exceptions of this package. Each message says what was expected, what came, and what to do."""

from __future__ import annotations


class MolmoAct2Error(Exception):
    """Base of every error that this package raises on purpose."""


class CheckpointError(MolmoAct2Error):
    """A checkpoint is missing a file or tensor, is damaged, or does not fit its own configuration."""


class InputError(MolmoAct2Error, ValueError):
    """An argument of a call is not usable: wrong shape, type, size, value or name."""


class MissingExtraError(MolmoAct2Error, ImportError):
    """An optional dependency is needed for what was asked; the message names the extra to install."""


class RobotError(MolmoAct2Error):
    """A robot, bus or camera did not do what was asked of it."""


class CaptureError(MolmoAct2Error):
    """A stage could not be recorded as a CUDA graph; nothing else was run in its place."""


class PolicyError(MolmoAct2Error):
    """The policy's process failed. ``kind`` says how: ``policy_died``, ``policy_hung`` or ``policy_garbled`` for the
    process itself, else the name of the exception that a call raised there."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
