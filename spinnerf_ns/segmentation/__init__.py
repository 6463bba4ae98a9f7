"""From a photo and clicks to an object mask in every training photo."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazily: ns-train imports this package's siblings at every start.
    if name == "segment_capture":
        from spinnerf_ns.segmentation.segment import segment_capture

        return segment_capture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
