"""The side of a camera that is looked at, for every camera with a thread: the newest frame, and waiting for a newer."""

from __future__ import annotations

import threading
from collections.abc import Callable

from molmoact2_drivers.protocol import Frame, LifeCycle
from molmoact2_edge.errors import RobotError

_JOIN_TIMEOUT_S = 5.0


class NewestFrameCamera:
    """What a :class:`.Camera` needs besides `capabilities` and `connect`.

    A subclass connects with `_begin`. Its thread hands over frames with `_show`, says with `_fail` why there are none,
    and ends once `_ending` is set.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._life_cycle = LifeCycle.DISCONNECTED
        self._fault: str | None = None
        self._frame: Frame | None = None
        self._trouble = ""  # why no frame comes, as far as the thread knows
        self._arrived = threading.Condition()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """Its role."""
        return self._name

    @property
    def life_cycle(self) -> LifeCycle:
        """DISCONNECTED, ACTIVE or ERROR."""
        return self._life_cycle

    @property
    def fault(self) -> str | None:
        """Why it is in ERROR; None otherwise."""
        return self._fault

    def latest(self) -> Frame:
        """The newest frame.

        Raises:
            RobotError: not connected, or in ERROR.
        """
        frame = self._frame
        self._require_active()
        assert frame is not None
        return frame

    def wait_newer(self, sequence: int, timeout_s: float) -> Frame:
        """The newest frame with a higher sequence number, waiting at most `timeout_s` for it.

        Raises:
            RobotError: none came in time, not connected, or in ERROR.
        """
        with self._arrived:
            self._arrived.wait_for(
                lambda: (
                    self._life_cycle is not LifeCycle.ACTIVE
                    or (self._frame is not None and self._frame.sequence > sequence)
                ),
                timeout_s,
            )
            self._require_active()
            if self._frame is None or self._frame.sequence <= sequence:
                trouble = f": {self._trouble}" if self._trouble else ""
                raise RobotError(
                    f"camera {self._name} gave no frame after {sequence} within {timeout_s:g} s{trouble}"
                )
            return self._frame

    def disconnect(self) -> None:
        """End the thread, from any state."""
        self._ending.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_TIMEOUT_S)
            self._thread = None
        with self._arrived:
            self._life_cycle, self._fault = LifeCycle.DISCONNECTED, None
            self._arrived.notify_all()

    def _require_disconnected(self) -> None:
        if self._life_cycle is not LifeCycle.DISCONNECTED:
            raise RobotError(f"camera {self._name} is {self._life_cycle.value}; disconnect it first")

    def _require_active(self) -> None:
        if self._life_cycle is not LifeCycle.ACTIVE:
            cause = f": {self._fault}" if self._fault else "; connect it first"
            raise RobotError(f"camera {self._name} is {self._life_cycle.value}{cause}")

    def _begin(self, run: Callable[[], None], first_frame_s: float) -> None:
        """Start the thread and wait for its first frame; it is ended again where none comes, which is a RobotError."""
        self._frame = None
        self._trouble = ""
        self._ending.clear()
        self._life_cycle = LifeCycle.ACTIVE
        self._thread = threading.Thread(target=run, name=f"camera-{self._name}", daemon=True)
        self._thread.start()
        try:
            self.wait_newer(-1, first_frame_s)
        except RobotError:
            self.disconnect()
            raise

    def _show(self, frame: Frame) -> None:
        with self._arrived:
            self._frame = frame
            self._arrived.notify_all()

    def _fail(self, fault: str) -> None:
        """ERROR, for as long as the thread does not know better; a camera that is being disconnected has none."""
        with self._arrived:
            if not self._ending.is_set():
                self._fault, self._life_cycle = fault, LifeCycle.ERROR
            self._arrived.notify_all()

    def _work_again(self) -> None:
        """ACTIVE again after an ERROR."""
        with self._arrived:
            if not self._ending.is_set():
                self._life_cycle, self._fault = LifeCycle.ACTIVE, None
            self._arrived.notify_all()
