"""Pretrained files: the table, where they are kept, how they are had."""
