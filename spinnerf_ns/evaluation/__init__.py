"""Measuring: metrics, scenes with known truth, baselines, reports."""
