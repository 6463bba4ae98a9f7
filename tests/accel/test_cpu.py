"""What is asked of the process for a CPU, and what must still work then."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import numpy as np
from spinnerf_ns.accel.cpu import flush_subnormals, nearest_tree
flush_subnormals()
points = np.random.default_rng(0).uniform(0, 1, (2000, 3))
points[:1500] *= [1, 1, 0]  # a floor at z = 0
tree = nearest_tree(points)
wanted = np.random.default_rng(1).uniform(0, 1, (50, 3))
found = tree.query(wanted)[1]
brute = np.argmin(((wanted[:, None] - points) ** 2).sum(-1), axis=1)
print((found == brute).all())
"""


def test_a_tree_of_points_on_a_plane_through_the_origin_without_subnormal_numbers():
    """In a process of its own: with scipy's default it dies of a stack overflow."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr[-500:]
