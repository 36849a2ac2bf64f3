"""Robots and cameras on the wire without hardware: each answers its real clients from a process of its own.

``molmoact2-edge emulate NAME`` starts one. Its first line on standard output is the device path or address to connect
to; faults come from a script or, one a line, from standard input (see :mod:`.faults`).
"""
