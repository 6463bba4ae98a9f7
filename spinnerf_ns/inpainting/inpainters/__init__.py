"""2-D inpainters: photos and holes -> photos without holes."""

from spinnerf_ns.registry import Registry

INPAINTERS = Registry(
    "inpainter",
    "spinnerf_ns.inpainters",
    {
        "opencv": "spinnerf_ns.inpainting.inpainters.opencv:OpenCVInpainter",
        "folder": "spinnerf_ns.inpainting.inpainters.folder:FolderInpainter",
    },
)
