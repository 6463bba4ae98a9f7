"""Geometry from photos and their poses alone, before any field: sparse points, dense depth and its confidence."""
