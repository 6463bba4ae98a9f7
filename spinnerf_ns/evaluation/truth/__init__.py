"""Scenes of which the truth is known: rendered twins, planted objects."""
