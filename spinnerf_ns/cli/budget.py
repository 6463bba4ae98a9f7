"""How long a removal takes on a machine, and the settings with which it takes so many minutes. Pure: no clock, no files.

A removal is a chain of parts. What each takes follows from the capture (`Work`), what this machine was measured to do (`Rates`) and
the settings that may be chosen (`Settings`): the width at which depth is measured, the steps of both trainings, and 1/N of
the photos' resolution at which masks and depth are rendered. The finest resolutions are taken with which both trainings have at
least `ENOUGH` of their methods' steps; steps then take what time there is. What is decided or over costs no choice: so the same
functions plan again in the middle of a run, from the time that is really left.

Example:
    >>> work = Work(photos=40, width=384, height=288, stereo=True, seg_steps=800, inpaint_steps=600)
    >>> rates = Rates(seg_step=0.05, inpaint_step=0.045, ray=5e-6, stereo=(0.1, 8.0))
    >>> plan = choose(work, rates, 150, Settings())
    >>> plan.settings.stereo_width, plan.settings.downscale, plan.fits, round(plan.total)
    (256, 2, True, 150)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from spinnerf_ns.nerf.background_field import background_steps
from spinnerf_ns.nerf.rendering import COARSE_WIDTH, COARSEST
from spinnerf_ns.stereo.dense import LEAST_WIDTH, StereoOptions

LEVELS = ((1.0, 1), (1.0, 2), (2 / 3, 2), (1 / 2, 2), (1 / 2, 3), (1 / 3, 4))
"""Resolutions from fine to coarse: the part of stereo's width, and N of --downscale."""
ENOUGH = 0.5
"""Part of a method's steps that is wanted before finer resolutions are."""
FEWEST, MOST = 1 / 8, 4.0
"""Parts of a method's steps between which they are chosen."""

REFERENCE_RAY = 4.8e-6
"""Seconds per rendered ray (spinnerf-seg-lite) of the machine on which the figures below were measured: 2 cores, no GPU."""
TRACK = 0.23
"""Seconds per photo of segmenting and tracking, without stereo. Windows of fixed size are worked on, whatever the photo's."""
READ = 0.12
"""Seconds per megapixel of reading a photo for a stage."""
LOAD = 1.5
"""Seconds of setting up a stage, whatever the capture."""
DRAW = 3.5, 3.0
"""Seconds per megapixel of all photos, and in all, of cleaning and drawing them."""
BACKGROUND_STEP = 0.5
"""A step of the field of what stays, in steps of the segmentation field: it has no objectness."""
AT_EDGES = 0.15
"""Part of the rays of a photo that is rendered sparsely: those at edges that are wanted sharp."""
CHECKED = 1.35
"""Time of stereo in times of photos' own depth: each is compared with those of others."""


@dataclass(frozen=True)
class Work:
    """What there is to do: of a run under way, what is left."""

    photos: int
    """With the object: all but the object-free ones."""
    width: int
    height: int
    """Of a photo, in pixels."""
    seg_steps: int
    inpaint_steps: int
    """Of the methods, by default."""
    stereo: bool = True
    """Whether depth is still to be measured; the parts below are the others of a removal, in their order."""
    segmentation: bool = True
    seg_training: bool = True
    export: bool = True
    inpainting: bool = True
    background_steps: int | None = None
    """Of the field of what stays, where they are configured."""
    mask_rounds: int = 1
    """While the segmentation field is trained, all masks are rendered so many times."""
    mask_round_downscale: int = 2
    """At 1/N of the photos' resolution."""

    @property
    def megapixels(self) -> float:
        """Of all photos."""
        return self.photos * self.width * self.height / 1e6


@dataclass(frozen=True)
class Rates:
    """What a machine was measured to do."""

    seg_step: float
    """Seconds per step of the segmentation training."""
    inpaint_step: float
    """Of the inpainting training."""
    ray: float
    """Per ray of a rendered photo."""
    stereo: tuple[float, float] = (0.0, 0.0)
    """Of measuring a photo's depth: seconds, whatever the resolution, and seconds per megapixel that is worked on."""

    @property
    def slowness(self) -> float:
        """How many times the reference machine's seconds this one takes."""
        return self.ray / REFERENCE_RAY

    def scaled(self, factor: float) -> Rates:
        """Of the same machine with more or less to do beside this."""
        per_photo, per_megapixel = self.stereo
        return Rates(
            self.seg_step * factor, self.inpaint_step * factor, self.ray * factor, (per_photo * factor, per_megapixel * factor)
        )


def option(name: str) -> str:
    """A setting as `remove` calls it."""
    return f"--{'export.' if name == 'downscale' else ''}{name.replace('_', '-')}"


@dataclass(frozen=True)
class Settings:
    """What may be chosen; None: not decided."""

    stereo_width: int | None = None
    seg_steps: int | None = None
    downscale: int | None = None
    inpaint_steps: int | None = None

    def decided(self) -> dict[str, int]:
        """Those that are."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def options(self) -> str:
        """As options of a command line."""
        return " ".join(f"{option(name)} {value}" for name, value in self.decided().items())


@dataclass(frozen=True)
class Plan:
    """What was chosen, and what it takes."""

    settings: Settings
    """All decided."""
    parts: dict[str, float]
    """Part of a removal -> seconds."""
    fits: bool
    """Whether it takes no longer than there is time; otherwise these are the least settings."""

    @property
    def total(self) -> float:
        """Seconds."""
        return sum(self.parts.values())


def line_fit(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """(megapixels, seconds) of two measurements -> seconds whatever the size, and seconds per megapixel; neither below zero."""
    (small, short), (large, long) = samples[0], samples[-1]
    if large <= small or long <= short:  # a narrow photo, or a machine busy with other things
        return 0.0, long / large
    slope = (long - short) / (large - small)
    return (short - slope * small, slope) if slope * small < short else (0.0, long / large)


def seconds_of(work: Work, rates: Rates, settings: Settings) -> dict[str, float]:
    """Seconds of each part of a removal that is left.

    Args:
        settings: all decided, but for those of parts that are over.
    """
    slow, parts = rates.slowness, {}
    read = slow * (LOAD + READ * work.megapixels)
    if work.stereo:
        width = min(settings.stereo_width or work.width, work.width)
        megapixels = width * (width * work.height / work.width) / 1e6
        per_photo, per_megapixel = rates.stereo
        parts["depth"] = CHECKED * work.photos * (per_photo + per_megapixel * megapixels)
    if work.segmentation:
        parts["masks"] = read + slow * TRACK * work.photos
    if work.seg_training:
        rounds = work.mask_rounds * work.photos * rates.ray * _rays(work, work.mask_round_downscale)
        parts["segmentation field"] = read + (settings.seg_steps or 0) * rates.seg_step + rounds
    if work.export:
        rendered = work.photos * rates.ray * _rays(work, settings.downscale or 1)
        parts["rendering"] = read + rendered
        if work.inpainting:
            steps = background_steps(work.background_steps, settings.seg_steps or 0)
            parts["what stays"] = steps * BACKGROUND_STEP * rates.seg_step + (rendered if steps else 0.0)
            parts["photos"] = slow * (DRAW[0] * work.megapixels + DRAW[1])
    if work.inpainting:
        parts["inpainting field"] = read + (settings.inpaint_steps or 0) * rates.inpaint_step
    return parts


def choose(work: Work, rates: Rates, seconds: float, fixed: Settings) -> Plan:
    """The settings with which what is left takes so many seconds.

    Args:
        seconds: that there are.
        fixed: what is decided: by the user, or earlier.

    Returns:
        The plan; where the time is not enough, the least one. More than `MOST` times a method's steps are not taken: then it
        takes less.
    """
    best: tuple[float, Settings] | None = None
    for level in _levels(work, fixed):
        part = _largest_part(work, rates, seconds, level)
        if part >= ENOUGH:
            best = part, level
            break
        if best is None or part > 1.05 * best[0]:
            best = part, level
    assert best is not None  # there is a level
    part, level = best
    if part < FEWEST:
        return least(work, rates, fixed)
    settings = with_steps(work, level, part)
    return Plan(settings, seconds_of(work, rates, settings), True)


def least(work: Work, rates: Rates, fixed: Settings) -> Plan:
    """The settings that take the shortest time, which there is not enough of."""
    plans = [with_steps(work, level, FEWEST) for level in _levels(work, fixed)]
    each = [Plan(settings, seconds_of(work, rates, settings), False) for settings in plans]
    return min(each, key=lambda plan: plan.total)


def with_steps(work: Work, settings: Settings, part: float) -> Settings:
    """Both trainings' steps, where they are not decided, as a part of their methods'."""
    seg = settings.seg_steps or max(1, round(part * work.seg_steps))
    inpaint = settings.inpaint_steps or max(1, round(part * work.inpaint_steps))
    return replace(settings, seg_steps=seg, inpaint_steps=inpaint if work.inpainting else None)


def _levels(work: Work, fixed: Settings) -> Iterator[Settings]:
    full = min(StereoOptions.width, work.width)
    for width, downscale in LEVELS:
        width = fixed.stereo_width or max(LEAST_WIDTH, round(width * full))
        yield replace(fixed, stereo_width=width, downscale=fixed.downscale or downscale)


def _largest_part(work: Work, rates: Rates, seconds: float, level: Settings) -> float:
    """The largest part of the methods' steps that there is time for; 0 where there is none."""

    def taken(part: float) -> float:
        return sum(seconds_of(work, rates, with_steps(work, level, part)).values())

    if taken(FEWEST) > seconds:
        return 0.0
    low, high = FEWEST, MOST
    if taken(high) <= seconds:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(middle) <= seconds else (low, middle)
    return low


def _rays(work: Work, downscale: int) -> float:
    """Of a photo that is rendered sparsely, as `rendering.render_sparsely` does it."""
    factor = min(COARSEST, round(work.width / downscale) // COARSE_WIDTH)
    share = 1.0 if factor < 2 else 1 / factor**2 + AT_EDGES
    return share * work.width * work.height / downscale**2


# ------------------------------------------------------------------------------------------------------------------- words
def minutes(seconds: float) -> str:
    """ "2:05 min"."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02} min"


def said_of_plan(plan: Plan, given: Settings, rates: Rates, budget: float, spent: float) -> str:
    """What was chosen and why, in one line.

    Args:
        given: what the user gave.
        budget: seconds asked for.
        spent: seconds that are over.
    """
    measured = f"{1 / rates.ray:.0f} rays/s and {1000 * rates.seg_step:.0f} ms a step"
    if rates.stereo[1]:
        measured += f", depth {rates.stereo[1]:.1f} s a megapixel"
    given_too = f" ({given.options()} as given)" if given.decided() else ""
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in plan.parts.items())
    text = f"{plan.settings.options()}{given_too}: about {minutes(spent + plan.total)} of {minutes(budget)} ({parts})"
    return f"Measured {measured}; so: {text}"
