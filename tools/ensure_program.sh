#!/bin/sh
# Makes sure that a program is on PATH: ensure_program.sh PROGRAM PACKAGE
set -eu

command -v "$1" >/dev/null 2>&1 && exit 0
sh "$(dirname "$0")/install_packages.sh" "$1 is needed and was not found" "$2"
command -v "$1" >/dev/null 2>&1
