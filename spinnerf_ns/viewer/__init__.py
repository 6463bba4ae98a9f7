"""Clicks in a browser."""
