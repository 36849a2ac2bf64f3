#!/bin/sh
# Makes sure that MuJoCo can render off screen: EGL or OSMesa. Installs Mesa's EGL where this user may install packages.
set -eu

can_render() {
  "$PYTHON" - <<'PY'
import ctypes
import sys

for library in ("libEGL.so.1", "libOSMesa.so.8", "libOSMesa.so"):
    try:
        ctypes.CDLL(library)
    except OSError:
        continue
    sys.exit(0)
sys.exit(1)
PY
}

can_render && exit 0
packages="libegl1 libgl1-mesa-dri"
if command -v apt-get >/dev/null 2>&1; then
  if [ "$(id -u)" = 0 ]; then
    become=""
  elif sudo -n true 2>/dev/null; then
    become="sudo"
  else
    become="none"
  fi
  if [ "$become" != none ]; then
    echo "The simulator needs an OpenGL library; installing $packages"
    $become apt-get update -qq
    # shellcheck disable=SC2086
    $become apt-get install -y -qq $packages >/dev/null
    can_render && exit 0
  fi
fi
echo "The simulator renders camera images with EGL or OSMesa, and neither library was found." >&2
echo "Install one and run this again, for example: sudo apt-get install $packages" >&2
exit 1
