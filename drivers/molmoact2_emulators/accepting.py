"""What a listening emulator does where the system lets it take no client: say so once, wait, and go on."""

from __future__ import annotations

import errno
import sys
import time

RETRY_S = 0.1

# The client has gone again, or there was none: the next one can be taken at once.
_OF_ONE_CLIENT = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ECONNABORTED, errno.EPROTO}


class AcceptPause:
    """Keeps a loop around ``accept`` from taking a whole processor while no file descriptor is left.

    The client stays in the queue then, so that the socket is ready and accept fails, again and again.
    """

    def __init__(self, server: str) -> None:
        """``server``: how it is called in the message."""
        self.failures = 0
        self._server = server
        self._over = 0.0

    def begin(self, error: OSError) -> None:
        """Pause for what accept failed with, and say so if it is the first time."""
        if error.errno in _OF_ONE_CLIENT:
            return
        self.failures += 1
        if self.failures == 1:
            print(
                f"{self._server}: no client can be taken: {error}; trying again every {RETRY_S:g} s",
                file=sys.stderr,
                flush=True,
            )
        self._over = time.monotonic() + RETRY_S

    @property
    def over(self) -> bool:
        """Whether accept may be asked again."""
        return time.monotonic() >= self._over

    def wait(self) -> None:
        """Sleep until it may."""
        time.sleep(max(0.0, self._over - time.monotonic()))
