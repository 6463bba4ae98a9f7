"""`remove --minutes`: measures, chooses, says and keeps what was chosen, at each point of a removal where something is decided.

<workspace>/budget.json   {"key", "minutes", "rates": what was measured, "settings": what is decided, "spent": seconds until then}

A setting is written before it is used: the same command after a kill goes on with what was decided, and decides the rest from the
time that is left. What a killed stage had worked since the last decision is not counted.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spinnerf_ns.cli import pace
from spinnerf_ns.cli.budget import FEWEST, MOST, Plan, Rates, Settings, Work, choose, least, minutes, option, said_of_plan
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import digest_of, write_json
from spinnerf_ns.hints import say

if TYPE_CHECKING:
    from spinnerf_ns.cli.remove import Remove
    from spinnerf_ns.runs import Run
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.workspace import Workspace

FILE = "budget.json"
INPAINT_STEP = 1.8
"""A step of the inpainting training, in steps of the segmentation's, before it was measured."""
AT_THE_END = 2.0
"""Seconds of the reference machine after the last step: a checkpoint is written."""
LIKELY = 0.5, 3.0
"""A stage's pace between these parts of the one measured before changes it; beyond, it was measured in odd company."""


@dataclass
class Paces:
    """What measures; tests give others."""

    segmentation: Callable[[str], tuple[float, float]] = pace.segmentation_pace
    stereo: Callable[[Capture, Workspace], tuple[float, float] | None] = pace.stereo_pace
    inpainting: Callable[..., pace.Steps] = pace.inpainting_pace
    elapsed: Callable[[], float] | None = None
    """Seconds since the command was given; None: since this process began."""

    def since_start(self) -> float:
        """Seconds since the command was given."""
        if self.elapsed is not None:
            return self.elapsed()
        import psutil

        return time.time() - psutil.Process().create_time()


class Budget:
    """A removal's time.

    Args:
        command: what was asked for; what is decided is written into it.
        workspace: where decisions are kept.
        capture: what is removed from.
        paces: what measures.

    Raises:
        SpinnerfError: minutes that are none, or an export stands that was made otherwise.
    """

    def __init__(self, command: Remove, workspace: Workspace, capture: Capture, paces: Paces | None = None) -> None:
        assert command.minutes is not None
        self.command, self.workspace, self.capture, self.paces = command, workspace, capture, paces or Paces()
        self.seconds = 60 * command.minutes
        self.file = workspace.root / FILE
        self.given = Settings(command.segment.stereo_width, command.seg_steps, command.export.downscale, command.inpaint_steps)
        self.key = digest_of(
            {"minutes": command.minutes, "lite": command.lite, "keep": command.export.keep, "given": self.given.decided(),
             "pointed": _pointed(command), "capture": capture.digest}
        )  # fmt: skip
        kept = _read(self.file)
        self.resumed = kept.get("key") == self.key
        if not self.resumed:
            self._refuse_to_overwrite()
            kept = {}
        self.spent = float(kept.get("spent", 0.0))
        self.fixed = replace(self.given, **kept.get("settings", {}))
        self.rates = _rates(kept["rates"]) if self.resumed else None
        self.work = self._work()

    # --------------------------------------------------------------------------------------------------------- decisions
    def begin(self) -> None:
        """Measures and decides at which width depth is measured; says what all of it will be, and whether there is time."""
        if self.resumed:
            left = "all is decided" if not self._open() else f"left of it: {minutes(self.seconds - self.spent)}"
            say(f"--minutes {self.command.minutes:g}: goes on with {self.fixed.options()}, as decided before; {left}")
            self._apply()
            return
        step, ray = self.paces.segmentation(self._method("spinnerf-seg"))
        stereo = self.paces.stereo(self.capture, self.workspace) if self.work.stereo else None
        self.work = replace(self.work, stereo=stereo is not None)
        self.rates = Rates(step, INPAINT_STEP * step, ray, stereo or (0.0, 0.0))
        plan = self._plan()
        if not plan.fits:
            self._say_too_short()
        elif self.spent + self._passed() + plan.total < 0.8 * self.seconds:
            say(f"--minutes {self.command.minutes:g}: more than is of use; {minutes(self._passed() + plan.total)} are taken")
        say(f"--minutes {self.command.minutes:g}: {said_of_plan(plan, self.given, self.rates, self.seconds, self._passed())}")
        self._decide(stereo_width=plan.settings.stereo_width)

    def before_training(self) -> None:
        """Decides the steps of the segmentation training."""
        self.work = replace(self.work, stereo=False, segmentation=False)
        if self.fixed.seg_steps is None:
            self._decide_by_plan("seg_steps")

    def before_export(self, run: Run) -> None:
        """Decides at which resolution masks and depth are rendered.

        Args:
            run: the segmentation training, which says how fast the machine is now.
        """
        from spinnerf_ns.runs import mean_step

        self.work = replace(self.work, seg_training=False)
        if self.fixed.downscale is None:
            if len(run.step_ends) > pace.SKIPPED and self.rates is not None:
                low, high = LIKELY
                factor = mean_step(run.step_ends[pace.SKIPPED :]) / self.rates.seg_step
                self.rates = self.rates.scaled(float(np.clip(factor, low, high)))
            self._decide_by_plan("downscale")

    def before_inpainting(self, removed: Path) -> None:
        """Decides the steps of the last training, by its own pace on the object-free capture.

        Args:
            removed: that capture.
        """
        self.work = replace(self.work, export=False)
        if self.fixed.inpaint_steps is not None:
            return
        assert self.rates is not None
        measured = self.paces.inpainting(self._method("spinnerf-inpaint"), removed)
        self.rates = replace(self.rates, inpaint_step=measured.step)
        left = self._left() - measured.setup - AT_THE_END * self.rates.slowness
        method = self.work.inpaint_steps
        steps = int(np.clip(left / measured.step, round(FEWEST * method), round(MOST * method)))
        self._decide(inpaint_steps=steps)
        text = f"{minutes(left)} are left, {1000 * measured.step:.0f} ms a step: --inpaint-steps {steps}"
        say(f"--minutes {self.command.minutes:g}: {text}")
        over = steps * measured.step - left
        if over > 0.02 * self.seconds:
            say(f"WARNING: --minutes {self.command.minutes:g} will be passed by {minutes(over)}: these are the fewest steps")

    def end(self) -> None:
        """Says what it took."""
        taken = self.spent + self._passed()
        say(f"--minutes {self.command.minutes:g}: it took {minutes(taken)}")

    # --------------------------------------------------------------------------------------------------------------- its parts
    def _decide_by_plan(self, name: str) -> None:
        """Plans what is left anew and takes one setting of it."""
        plan = self._plan()
        assert self.rates is not None
        if not plan.fits:
            say(
                f"WARNING: --minutes {self.command.minutes:g}: {minutes(self._left())} are left, and the least that is possible "
                f"takes {minutes(plan.total)}; it goes on with that"
            )
        self._decide(**{name: getattr(plan.settings, name)})
        total = minutes(self.spent + self._passed() + plan.total)
        say(f"--minutes {self.command.minutes:g}: {option(name)} {getattr(plan.settings, name)}, to end after about {total}")

    def _plan(self) -> Plan:
        assert self.rates is not None
        return choose(self.work, self.rates, self._left() - AT_THE_END * self.rates.slowness, self.fixed)

    def _say_too_short(self) -> None:
        assert self.rates is not None
        shortest = self._passed() + least(self.work, self.rates, self.fixed).total
        advice = "" if self.command.lite else "; --lite takes a part of it without a GPU"
        say(
            f"WARNING: --minutes {self.command.minutes:g} is not enough here: the least that is possible takes about "
            f"{minutes(shortest)}; it goes on with that{advice}"
        )

    def _decide(self, **settings: int | None) -> None:
        """Writes settings down, then lets them be used."""
        assert self.rates is not None
        self.fixed = replace(self.fixed, **settings)
        passed = self._passed()
        write_json(
            self.file,
            {
                "key": self.key,
                "minutes": self.command.minutes,
                "rates": dataclasses.asdict(self.rates),
                "settings": self.fixed.decided(),
                "spent": round(self.spent + passed, 1),
            },
        )
        self._apply()

    def _apply(self) -> None:
        self.command.segment.stereo_width = self.fixed.stereo_width
        self.command.seg_steps = self.fixed.seg_steps
        self.command.export.downscale = self.fixed.downscale
        self.command.inpaint_steps = self.fixed.inpaint_steps

    def _open(self) -> bool:
        return len(self.fixed.decided()) < len(dataclasses.fields(Settings)) - (not self.work.inpainting)

    def _passed(self) -> float:
        """Seconds of this process."""
        return self.paces.since_start()

    def _left(self) -> float:
        return self.seconds - self.spent - self._passed()

    def _method(self, name: str) -> str:
        return f"{name}-lite" if self.command.lite else name

    def _work(self) -> Work:
        """What there is to do, as far as it can be told without doing it."""
        from spinnerf_ns.runs import method_config
        from spinnerf_ns.stereo.maps import STAGE as STEREO
        from spinnerf_ns.stereo.maps import standing_options

        views = self.workspace.views_with_object(self.capture)
        seg, inpaint = (method_config(self._method(name)) for name in ("spinnerf-seg", "spinnerf-inpaint"))
        stages = self.workspace.manifest["stages"]
        anew = self.command.segment.overwrite
        standing = standing_options(self.workspace)
        if standing is not None and self.fixed.stereo_width is None:  # measured again, all that follows it would be as well
            self.fixed = replace(self.fixed, stereo_width=standing.width)
        return Work(
            photos=len(views),
            width=int(np.median([view.width for view in views])),
            height=int(np.median([view.height for view in views])),
            seg_steps=seg.max_num_iterations,
            inpaint_steps=inpaint.max_num_iterations,
            stereo=STEREO not in stages or standing is None or standing.width != self.fixed.stereo_width,
            segmentation=anew or "segment" not in stages,
            inpainting=not self.command.export.keep,
            background_steps=self.command.export.background_steps,
            mask_rounds=len(seg.pipeline.mask_round_steps),
            mask_round_downscale=seg.pipeline.mask_round_downscale,
        )

    def _refuse_to_overwrite(self) -> None:
        """An export that stands was made with other settings than will be chosen: said now, and not when it comes to it."""
        if self.command.segment.overwrite or "render" not in self.workspace.manifest["stages"]:
            return
        raise SpinnerfError(
            f"{self.workspace.root}: what stands there was made with another budget, or none; the same command with --overwrite "
            "makes it anew, and without --minutes it goes on with what stands"
        )


def _pointed(command: Remove) -> dict[str, Any]:
    """What was pointed at, and what makes masks of it."""
    unlike = ("data", "workspace", "overwrite", "stereo_width", "skip_missing")
    return {name: str(value) for name, value in vars(command.segment).items() if name not in unlike}


def _read(path: Path) -> dict[str, Any]:
    """budget.json; nothing where there is none, or a damaged one."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        _rates(kept["rates"])
        Settings(**kept["settings"])
        float(kept["spent"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return kept


def _rates(values: dict[str, Any]) -> Rates:
    return Rates(**{**values, "stereo": tuple(values["stereo"])})
