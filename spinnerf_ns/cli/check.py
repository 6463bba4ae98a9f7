"""ns-spinnerf check: what a capture is, and what would go wrong with it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class Check:
    """Look at a capture before anything works on it: photos, lens, poses, points, masks, disk and machine.

    Exit status 1 where something is wrong that a stage would stumble over.
    """

    data: Path
    """The posed capture: a folder, or its transforms.json."""
    workspace: Path | None = None
    """Where the stages will write. Default: <data>/spinnerf."""
    skip_missing: bool = False
    """Note photos that are absent or broken in the workspace: every command, ns-train too, goes on without them."""
    json: bool = False
    """Print the findings as JSON."""

    def main(self) -> None:
        """Runs the command."""
        from spinnerf_ns.scene.check import check_capture

        check = check_capture(self.data, self.workspace, self.skip_missing)
        if self.json:
            print(json.dumps([asdict(finding) for finding in check.findings], indent=2, ensure_ascii=False))
        else:
            for finding in check.findings:
                print(f"{finding.level:<8}{finding.line()}")
        if check.of("error"):
            sys.exit(1)
