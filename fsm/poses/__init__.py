"""Cameras of a capture that has none: pictures are chosen, COLMAP finds their cameras in a process
of its own, what moves is masked and the cameras are found again, and a clip is written.

``frames`` and ``photos`` choose the pictures, ``solve`` talks to the process ``worker``, ``moving``
finds what moves, ``place`` sets gravity and scale, ``write`` makes the clip, ``find`` is all of it.
"""

from fsm.poses.find import Found, PoseOptions, find_poses

__all__ = ["Found", "PoseOptions", "find_poses"]
