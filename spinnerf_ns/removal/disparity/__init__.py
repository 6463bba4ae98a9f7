"""Completing disparity."""
