"""Object removal from radiance fields (SPIn-NeRF, CVPR 2023) as a nerfstudio method plugin.

Importing this package is cheap: no 2-D network and no model is loaded. It has one side effect, which every
nerfstudio command needs with torch >= 2.6: see `_allow_nerfstudio_checkpoints`.
"""

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
        from numpy.core import multiarray
    # Checkpoints name the function by the module path of the numpy that wrote them: allow both.
    scalar = multiarray.scalar
    allowed = [np.dtype, np.dtypes.Float64DType, scalar]
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        torch.serialization.add_safe_globals(allowed)
    except (TypeError, AttributeError):  # torch 2.4/2.5 take no (object, name) pairs
        torch.serialization.add_safe_globals(allowed[:3])


_allow_nerfstudio_checkpoints()
