"""A policy in a process of its own, called like a policy in this one.

A crash, a call that never ends, an end of memory or a busy interpreter over there costs calls here, never a tick of the
control loop: the present chunk runs out and the loop holds. This side needs no PyTorch.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_edge import errors
from molmoact2_edge.errors import PolicyError
from molmoact2_edge.guide import ActionGuide
from molmoact2_edge.runtime.policy_wire import (
    ClosedError,
    FrameMemory,
    Message,
    WireError,
    number_table,
    receive,
    send,
)
from molmoact2_edge.types import Image

DIED, HUNG, GARBLED = "policy_died", "policy_hung", "policy_garbled"

_COMMAND = (sys.executable, "-m", "molmoact2_edge.runtime.policy_process")
# PyTorch's threads sleep while they wait for one another; by default they spin, on processors that the loop needs.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
_SEND_LIMIT_S = 1.0  # a request is small and the other side is reading
_CLOSE_LIMIT_S = 2.0


@dataclass(frozen=True)
class PolicyProcessSettings:
    """How the process is started and supervised."""

    checkpoint: str
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    threads: int = 0
    """For its computations; 0 leaves the choice to PyTorch."""
    nice: int = 0
    """0 to 19: how far it stands back when others want the processor too."""
    load_limit_s: float = 600.0
    """Loading a checkpoint, and its first call, may take that long."""
    call_limit_s: float = 10.0
    """A later call that takes longer is given up, and the process killed."""
    restarts: int = 0
    """How often a process that failed is started anew."""


@dataclass(frozen=True)
class RemotePrediction:
    """What came back of a prediction; see :class:`molmoact2_edge.Prediction`.

    ``timing`` has a stage more: ``transport``, what the call took beyond the policy's own total.
    """

    actions: npt.NDArray[np.float32]
    valid: bool
    reason: str
    timing: dict[str, float]
    guide_clipped: int | None


@dataclass(frozen=True)
class PolicyFailure:
    """One end of a process that was not asked for."""

    time_ns: int
    """On the monotonic clock, when it was noticed."""
    kind: str
    message: str

    def __str__(self) -> str:
        return self.message


class _Child:
    """One process, and the thread that started it and waits for it.

    The kernel kills the process when the thread that started it ends (PR_SET_PDEATHSIG), so that thread lives as long.
    """

    def __init__(self, command: Sequence[str], frames: FrameMemory) -> None:
        ours, theirs = socket.socketpair()
        self.sock = ours
        self.exit_code: int | None = None
        self.exited = threading.Event()
        self.answered = 0
        started: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()

        def keep() -> None:
            arguments = (
                *command,
                f"--socket={theirs.fileno()}",
                f"--frames={frames.descriptor}",
                f"--parent={os.getpid()}",
            )
            try:
                process = subprocess.Popen(  # noqa: S603
                    arguments,
                    env={**os.environ, **_ENVIRONMENT},
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what it prints must not land in the middle of the status
                    pass_fds=(theirs.fileno(), frames.descriptor),
                    start_new_session=True,
                )
            except OSError as error:
                started.put(error)
                return
            finally:
                theirs.close()  # so that its end shows as the end of the stream
            started.put(process)
            self.exit_code = process.wait()
            self.exited.set()

        self._keeper = threading.Thread(target=keep, name="policy-keeper", daemon=True)
        self._keeper.start()
        process = started.get()
        if isinstance(process, OSError):
            ours.close()
            raise PolicyError(DIED, f"the policy's process could not be started: {process}")
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def how_it_ended(self) -> str:
        """One sentence for a report."""
        if self.exit_code is None:
            return "the policy's process closed its stream; it was killed"
        if self.exit_code >= 0:
            return f"the policy's process ended with exit code {self.exit_code}; its last words are on stderr"
        number = signal.Signals(-self.exit_code)
        hint = "; the kernel does that when memory runs out" if number == signal.SIGKILL else ""
        return f"the policy's process was killed by {number.name}{hint}"

    def end(self, patience_s: float) -> None:
        """Close the stream, which ends the process between two calls; kill it where that takes too long."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        if not self.exited.wait(patience_s):
            self._process.kill()
            self.exited.wait(_CLOSE_LIMIT_S)
        self.sock.close()


class PolicyProcess:
    """Starts the process at once; it loads while the caller does something else, until :meth:`wait_ready`.

    One thread calls :meth:`predict`; :attr:`failure` and :meth:`close` are for any.
    """

    def __init__(
        self, settings: PolicyProcessSettings, frame_bytes: int, *, command: Sequence[str] = _COMMAND
    ) -> None:
        """``frame_bytes``: of all images of one call together.

        Raises:
            PolicyError: The process cannot be started.
        """
        self.settings = settings
        self.failures: list[PolicyFailure] = []
        self.restarts = 0
        self.about: dict[str, Any] = {}
        """What the process said about itself when it was ready."""
        self._command = command
        self._frames = FrameMemory.create(frame_bytes)
        self._lock = threading.RLock()
        self._closed = False
        self._ready = False
        self._calls = 0
        self._child = self._start()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def failure(self) -> PolicyFailure | None:
        """Why there is no process to answer, as soon as that is so; None while there is one, or one is loading."""
        with self._lock:
            if self._child.exited.is_set():
                self._note(self._child, DIED, self._child.how_it_ended())
            return self.failures[-1] if len(self.failures) > self.restarts else None

    @property
    def spent(self) -> bool:
        """Whether it failed for the last time: no restart is left."""
        return self.failure is not None and self.restarts >= self.settings.restarts

    def wait_ready(self) -> dict[str, Any]:
        """Wait until the checkpoint is loaded; returns :attr:`about`.

        Raises:
            MolmoAct2Error: What loading raised over there.
            PolicyError: The process died, or took longer than ``load_limit_s``.
        """
        if not self._ready:
            answer = self._receive(self.settings.load_limit_s, "loading")
            if answer.head.get("kind") == "error":
                self._child.end(_CLOSE_LIMIT_S)
                raise _raised(answer)
            if answer.head.get("kind") != "ready" or not isinstance(answer.head.get("about"), dict):
                raise self._fail(GARBLED, f"the policy's process should be ready, but says {answer.head!r}")
            self.about = answer.head["about"]
            self._ready = True
        return self.about

    def predict(
        self,
        images: Sequence[Image],
        task: str,
        state: npt.ArrayLike,
        norm_tag: str | None = None,
        *,
        seed: int | None = None,
        convention: str = "none",
        guide: ActionGuide | None = None,
    ) -> RemotePrediction:
        """See :meth:`molmoact2_edge.Policy.predict`. A process that failed stays so until :meth:`revive`.

        Raises:
            MolmoAct2Error: What the call raised over there, where it is one of this package's.
            PolicyError: Anything else that was raised there; or the process died, took longer than ``call_limit_s``,
                or answered nonsense.
        """
        self._require_no_failure()
        self.wait_ready()
        begin = time.perf_counter()
        arrays: dict[str, Any] = {"state": np.asarray(state, dtype=np.float64)}
        if guide is not None:
            arrays |= {"guide": guide.actions, "guide_weights": guide.weights}
        asked = {"task": task, "norm_tag": norm_tag, "seed": seed, "convention": convention}
        first = self._child.answered == 0
        limit_s = self.settings.load_limit_s if first else self.settings.call_limit_s
        answer = self._ask({"kind": "predict", **asked}, images, arrays, limit_s)
        return self._prediction(answer, time.perf_counter() - begin)

    def warmup(
        self,
        images: Sequence[Image],
        task: str,
        state: npt.ArrayLike,
        norm_tag: str | None = None,
        *,
        convention: str = "none",
    ) -> float:
        """See :meth:`molmoact2_edge.Policy.warmup`; does nothing where the policy runs on no GPU. Raises as predict."""
        self._require_no_failure()
        self.wait_ready()
        arrays = {"state": np.asarray(state, dtype=np.float64)}
        asked = {"kind": "warmup", "task": task, "norm_tag": norm_tag, "convention": convention}
        answer = self._ask(asked, images, arrays, self.settings.load_limit_s)
        seconds = answer.head.get("seconds")
        if not isinstance(seconds, float):
            raise self._fail(GARBLED, f"the policy's process should be warm, but says {answer.head!r}")
        return seconds

    def revive(self) -> None:
        """Start the process anew where it failed and a restart is left, and wait until it is ready.

        Raises:
            MolmoAct2Error: As :meth:`wait_ready`.
            PolicyError: No restart is left.
        """
        with self._lock:
            if self.failure is None:
                return
            if self._closed or self.spent:
                self._require_no_failure()
            self._child.end(0.0)
            self._child = self._start()
            self.restarts += 1
        self.wait_ready()

    def close(self) -> None:
        """End the process; a call under way raises. Does not raise itself."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._child.end(_CLOSE_LIMIT_S)
        self._frames.close()

    # The process -------------------------------------------------------------------------------------------------

    def _start(self) -> _Child:
        child = _Child(self._command, self._frames)
        self._ready = False
        settings = self.settings
        told = {
            "kind": "load",
            "checkpoint": settings.checkpoint,
            "device": settings.device,
            "dtype": settings.dtype,
            "offline": settings.offline,
            "threads": settings.threads,
            "nice": settings.nice,
        }
        child.sock.settimeout(_SEND_LIMIT_S)
        with contextlib.suppress(ClosedError, OSError):  # wait_ready() finds out
            send(child.sock, Message(told))
        return child

    def _require_no_failure(self) -> None:
        failure = self.failure
        if failure is not None:
            raise PolicyError(failure.kind, failure.message)

    def _ask(
        self, head: dict[str, Any], images: Sequence[Image], arrays: dict[str, Any], limit_s: float
    ) -> Message:
        """Send a request and return its answer; raises what was raised over there."""
        child = self._child
        self._calls += 1
        request = {**head, "call": self._calls, "images": self._frames.write(images)}
        child.sock.settimeout(_SEND_LIMIT_S)
        try:
            send(child.sock, Message(request, arrays))
        except (ClosedError, OSError) as error:
            raise self._lost(error, "a request") from error
        answer = self._receive(limit_s, "a call")
        if answer.head.get("call") != self._calls:
            raise self._fail(
                GARBLED, f"the policy's process answered call {answer.head.get('call')!r} of {self._calls}"
            )
        child.answered += 1
        if answer.head.get("kind") == "error":
            raise _raised(answer)
        return answer

    def _receive(self, limit_s: float, what: str) -> Message:
        try:
            return receive(self._child.sock, limit_s)
        except WireError as error:
            raise self._fail(
                GARBLED, f"the policy's process answered {what} with nonsense: {error}"
            ) from error
        except TimeoutError as error:
            raise self._fail(
                HUNG, f"{what} took the policy longer than {limit_s:g} s; it was killed"
            ) from error
        except (ClosedError, OSError) as error:
            raise self._lost(error, what) from error

    def _prediction(self, answer: Message, elapsed_s: float) -> RemotePrediction:
        head, actions = answer.head, answer.arrays.get("actions")
        if (
            head.get("kind") != "prediction"
            or actions is None
            or actions.ndim != 2
            or actions.dtype != np.float32
            or not isinstance(head.get("valid"), bool)
            or not isinstance(head.get("reason"), str)
            or not isinstance(head.get("guide_clipped"), (int, type(None)))
        ):
            raise self._fail(
                GARBLED, f"the policy's process should answer with a prediction, but says {head!r}"
            )
        try:
            timing = number_table(head.get("timing"))
        except WireError as error:
            raise self._fail(GARBLED, f"the policy's process tells no times: {error}") from error
        timing["transport"] = max(elapsed_s - timing.get("total", 0.0), 0.0)
        return RemotePrediction(actions, head["valid"], head["reason"], timing, head["guide_clipped"])

    # Failures ----------------------------------------------------------------------------------------------------

    def _lost(self, error: Exception, what: str) -> PolicyError:
        if self._closed:
            return PolicyError(DIED, "the policy's process was closed")
        if isinstance(error, TimeoutError):
            return self._fail(HUNG, f"the policy's process does not read {what}; it was killed")
        self._child.exited.wait(_CLOSE_LIMIT_S)
        return self._fail(DIED, self._child.how_it_ended())

    def _fail(self, kind: str, message: str) -> PolicyError:
        """Note the end of the present process and kill it where it still runs."""
        child = self._child
        self._note(child, kind, message)
        child.end(0.0)
        return PolicyError(kind, message)

    def _note(self, child: _Child, kind: str, message: str) -> None:
        """Note why a process is lost; the first reason stands."""
        with self._lock:
            if child is self._child and len(self.failures) == self.restarts and not self._closed:
                self.failures.append(PolicyFailure(time.monotonic_ns(), kind, message))


def _raised(answer: Message) -> Exception:
    """Return the exception that the other side reports, as it is where it is one of this package's."""
    name, message = str(answer.head.get("error")), str(answer.head.get("message"))
    known = getattr(errors, name, None)
    if isinstance(known, type) and issubclass(known, errors.MolmoAct2Error) and known is not PolicyError:
        return known(message)
    return PolicyError(name, message)
