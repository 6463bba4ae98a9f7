"""Interactive 2-D segmenters: a photo and clicks -> an object mask."""

from spinnerf_ns.registry import Registry

SEGMENTERS = Registry(
    "segmenter",
    "spinnerf_ns.segmenters",
    {
        "grabcut": "spinnerf_ns.segmentation.segmenters.grabcut:GrabCutSegmenter",
        "folder": "spinnerf_ns.segmentation.segmenters.folder:FolderSegmenter",
    },
)
