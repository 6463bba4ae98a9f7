"""Data managers and pixel samplers: what a training step is given."""
