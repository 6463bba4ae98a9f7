"""Commands that are printed for the user to run: quoted for a shell, complete, and untouched by rich's markup."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORKSPACE_FOLDER = "spinnerf"
"""The workspace's name below the scene, unless --workspace names another place."""


def command(*words: str | Path, data: str | Path | None = None, workspace: str | Path | None = None, **options: Any) -> str:
    """A command line that a shell takes as it is printed.

    Args:
        words: the program, its sub-command and what else stands before the options: "ns-spinnerf", "segment".
        data: the capture, written as --data.
        workspace: written only where it is not the capture's own <data>/spinnerf, and as the program calls it.
        options: by their Python names (load_config -> --load-config). True is a flag alone; None and False are left out; all
            values of a list or tuple follow. Names with a dot: `**{"pipeline.datamanager.masks": folder}`.

    Example:
        >>> command("ns-spinnerf", "segment", data="my scene", view="a[1].jpg", points="3,4", overwrite=True)
        "ns-spinnerf segment --data 'my scene' --view 'a[1].jpg' --points 3,4 --overwrite"
        >>> command("ns-train", "spinnerf-seg", data="scene", workspace="/tmp/w")
        'ns-train spinnerf-seg --data scene --pipeline.datamanager.workspace /tmp/w'
    """
    parts = [str(word) for word in words]
    if data is not None:
        parts += ["--data", str(data)]
    if workspace is not None and not is_default_workspace(data, workspace):
        parts += ["--pipeline.datamanager.workspace" if parts[:1] == ["ns-train"] else "--workspace", str(workspace)]
    for name, value in options.items():
        if value is None or value is False:
            continue
        parts.append("--" + name.replace("_", "-"))
        if value is not True:
            several = isinstance(value, Sequence) and not isinstance(value, str)
            parts += [str(each) for each in value] if several else [str(value)]
    return shlex.join(parts)


def is_default_workspace(data: str | Path | None, workspace: str | Path) -> bool:
    """Whether a command finds this workspace by --data alone: it is <data>/spinnerf, or <folder of data>/spinnerf of a file."""
    if data is None:
        return False
    folder = Path(data).parent if Path(data).is_file() else Path(data)
    return os.path.abspath(folder / WORKSPACE_FOLDER) == os.path.abspath(workspace)


def say(text: str) -> None:
    """Prints a line on nerfstudio's console as it is: brackets in names are no markup, and no line is broken to fit."""
    from nerfstudio.utils.rich_utils import CONSOLE  # seconds to import

    CONSOLE.print(text, markup=False, highlight=False, soft_wrap=True)
