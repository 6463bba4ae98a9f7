"""Object removal from radiance fields (SPIn-NeRF, CVPR 2023) as a nerfstudio method plugin.

Importing this package is cheap: no 2-D network and no model is loaded. It has two side effects, which nerfstudio's commands
need: `_allow_nerfstudio_checkpoints` (torch >= 2.6), and `_RenamedModules` for runs of earlier versions. In `ns-spinnerf` alone,
Ctrl-C is made a line before torch is imported.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys

if (
    os.path.basename((getattr(sys, "argv", None) or [""])[0]) == "ns-spinnerf"
):  # before torch: Ctrl-C is a line from the first moment on
    from spinnerf_ns.errors import one_line_at_the_end

    one_line_at_the_end("ns-spinnerf", interrupts=None)

__version__ = "0.1.0"


def _allow_nerfstudio_checkpoints() -> None:
    """Let torch >= 2.6 load nerfstudio checkpoints with `weights_only=True`.

    Since 2.6, `torch.load` defaults to `weights_only=True`, and nerfstudio's checkpoints hold `numpy.float64` scalars
    (the schedulers' state), so ns-eval, ns-render, ns-viewer and ns-export fail on every method. The classes below are
    plain numbers; allowing them keeps the safe loader on, which `weights_only=False` would not.
    """
    import numpy as np
    import torch

    if not hasattr(torch.serialization, "add_safe_globals"):  # torch < 2.4 has no safe list and needs none
        return
    try:
        from numpy._core import multiarray
    except ImportError:  # numpy < 2
        from numpy.core import multiarray  # type: ignore[no-redef]
    # Checkpoints name the function by the module path of the numpy that wrote them: allow both.
    scalar = multiarray.scalar  # type: ignore[attr-defined]
    allowed = [np.dtype, np.dtypes.Float64DType, scalar]
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        torch.serialization.add_safe_globals(allowed)
    except (TypeError, AttributeError):  # torch 2.4/2.5 take no (object, name) pairs
        torch.serialization.add_safe_globals(allowed[:3])


_RENAMED = {
    "spinnerf_ns.nerf.datamanager": "spinnerf_ns.nerf.data.datamanager",
    "spinnerf_ns.nerf.inpaint_data": "spinnerf_ns.nerf.data.inpaint_data",
    "spinnerf_ns.nerf.pixel_samplers": "spinnerf_ns.nerf.data.pixel_samplers",
    "spinnerf_ns.nerf.optimizers": "spinnerf_ns.accel.optimizers",
    "spinnerf_ns.inpainting": "spinnerf_ns.removal",
    "spinnerf_ns.inpainting.config": "spinnerf_ns.removal.config",
}
"""Modules that a config.yml of version 0.1 names -> where their classes are now."""


class _RenamedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under the name that it had when a run's config.yml was written."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name in _RENAMED else None

    def create_module(self, spec):
        module = importlib.import_module(_RENAMED[spec.name])
        spec.loader_state = module.__spec__  # the import machinery is about to write the old name's over it
        return module

    def exec_module(self, module):  # it was executed under its own name
        module.__spec__ = module.__spec__.loader_state


_allow_nerfstudio_checkpoints()
sys.meta_path.insert(0, _RenamedModules())  # first: below a renamed package the old files' names would be found as well
