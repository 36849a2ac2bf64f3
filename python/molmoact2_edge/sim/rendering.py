"""Getting MuJoCo ready to draw without a display, and a renderer that draws one camera into an array."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

import numpy as np

from molmoact2_edge.errors import MissingExtraError, RobotError
from molmoact2_edge.types import Image

_GL_ADVICE = (
    "on Debian or Ubuntu install them with 'apt-get install libegl1 libgl1-mesa-dri', "
    "or set MUJOCO_GL=osmesa after 'apt-get install libosmesa6'"
)
_MAX_GEOMS = 200  # the scene draws 17


def import_mujoco() -> ModuleType:
    """The `mujoco` module, imported so that it can draw on a machine without a display.

    MuJoCo reads the variable MUJOCO_GL once, when it is imported. EGL is chosen here when there is no display and
    the user made no choice.

    Raises:
        MissingExtraError: the `sim` extra is not installed.
        RobotError: MuJoCo is installed, but the GL libraries that MUJOCO_GL asks for are not.
    """
    headless = not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if headless and "mujoco" not in sys.modules and not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = "egl"
    try:
        import mujoco
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise _no_gl(error) from error
        raise MissingExtraError(
            "the simulator needs MuJoCo, which is not installed: pip install molmoact2-edge[sim]"
        ) from error
    # PyOpenGL reports an absent libEGL as an AttributeError on None, and an absent libOSMesa as an ImportError.
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise _no_gl(error) from error
    module: ModuleType = mujoco
    return module


def _no_gl(error: BaseException) -> RobotError:
    backend = os.environ.get("MUJOCO_GL", "glfw")
    return RobotError(
        f"no OpenGL library works for MUJOCO_GL={backend}, as MuJoCo found it when it was imported ({error}); "
        f"{_GL_ADVICE}"
    )


class OffscreenRenderer:
    """Draws fixed cameras of one model into arrays, with a GL context of its own.

    GL contexts belong to threads: make it, use it and close it in one thread.
    """

    def __init__(self, model: Any, image_size: tuple[int, int]) -> None:
        """`image_size` is (height, width) in pixels.

        Raises:
            RobotError: no GL context can be made.
        """
        mj = import_mujoco()
        self._mj = mj
        self.height, self.width = image_size
        try:
            self._gl = mj.GLContext(self.width, self.height)
            self._gl.make_current()
        # The three backends raise what their loaders raise: RuntimeError, AttributeError, OSError, GLError.
        except Exception as error:
            raise _no_gl(error) from error
        self._model = model
        # The drawing buffer is made as large as the model's own setting says.
        size = model.vis.global_
        size.offwidth, size.offheight = max(size.offwidth, self.width), max(size.offheight, self.height)
        self._context = mj.MjrContext(model, mj.mjtFontScale.mjFONTSCALE_100.value)
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mj.MjvScene(model, _MAX_GEOMS)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE"):
            self._scene.flags[getattr(mj.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._option = mj.MjvOption()
        self._camera = mj.MjvCamera()
        self._camera.type = mj.mjtCamera.mjCAMERA_FIXED
        self._viewport = mj.MjrRect(0, 0, self.width, self.height)
        self._pixels = np.empty((self.height, self.width, 3), np.uint8)

    def capture(self, data: Any, camera_id: int) -> None:
        """Copies what the camera will see from `data`; afterwards `data` may go on changing."""
        mj = self._mj
        self._camera.fixedcamid = camera_id
        mj.mjv_updateScene(
            self._model, data, self._option, None, self._camera, mj.mjtCatBit.mjCAT_ALL.value, self._scene
        )

    def draw(self) -> Image:
        """Draws what was captured last: (H, W, 3) uint8 RGB, a new array."""
        mj = self._mj
        self._gl.make_current()  # this thread may have drawn another camera meanwhile
        mj.mjr_render(self._viewport, self._scene, self._context)
        mj.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        # OpenGL's first row is the lowest.
        return np.ascontiguousarray(self._pixels[::-1])

    def close(self) -> None:
        """Frees the GL context; closing twice is harmless."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None
