"""From the box to the first run: finding, setting up, calibrating, jogging and copying arms, without a terminal.

The commands of the same names only talk with the person; what they do is here.
"""
