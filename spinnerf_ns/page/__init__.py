"""Pointing in a browser: a page over the functions of `segmentation`. It holds no logic that a command does not have."""
