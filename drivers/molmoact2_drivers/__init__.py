"""Robots and cameras, each behind one protocol, and the emulators that they are tested against."""
