"""Mask trackers: masks in some photos -> masks in all of them, along the camera path."""

from spinnerf_ns.registry import Registry

TRACKERS = Registry(
    "tracker",
    "spinnerf_ns.trackers",
    {
        "flow": "spinnerf_ns.segmentation.trackers.flow:FlowTracker",
        "geometry": "spinnerf_ns.segmentation.trackers.geometry:GeometryTracker",
        "sam2": "spinnerf_ns.segmentation.trackers.sam2:Sam2Tracker",
    },
)
