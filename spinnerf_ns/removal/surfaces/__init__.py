"""Planes around the region and how they go on in it."""
