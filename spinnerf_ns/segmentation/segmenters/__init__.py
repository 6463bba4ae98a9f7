"""Interactive 2-D segmenters: a photo and clicks -> an object mask."""

from spinnerf_ns.registry import Registry

SEGMENTERS = Registry(
    "segmenter",
    "spinnerf_ns.segmenters",
    {
        "grabcut": "spinnerf_ns.segmentation.segmenters.grabcut:GrabCutSegmenter",
        "sam": "spinnerf_ns.segmentation.segmenters.sam:SamSegmenter",
        "sam2": "spinnerf_ns.segmentation.segmenters.sam2:Sam2Segmenter",
        "folder": "spinnerf_ns.segmentation.segmenters.folder:FolderSegmenter",
    },
)
