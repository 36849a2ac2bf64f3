"""What a run leaves behind without touching its control thread: black boxes, datasets, a live picture.

Everything here reads the loop's ring and the cameras' newest frames from threads of its own, through queues that
drop and count when they are full. Nothing here is waited for by the loop, and a failure here never stops an arm.
"""
