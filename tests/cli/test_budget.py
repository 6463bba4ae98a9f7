"""A budget: what is chosen for so many minutes, what is said of it, and that a run goes on with what it decided. No clock."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from spinnerf_ns.cli.budget import (
    FEWEST,
    MOST,
    Rates,
    Settings,
    Work,
    choose,
    least,
    line_fit,
    minutes,
    said_of_plan,
    seconds_of,
)
from spinnerf_ns.cli.budgeted import FILE, Budget, Paces
from spinnerf_ns.cli.pace import Steps
from spinnerf_ns.cli.remove import Remove, remove
from spinnerf_ns.cli.segment import Pointing
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, write_twin
from spinnerf_ns.runs import Run, mean_step
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.stereo.dense import LEAST_WIDTH

WORK = Work(photos=60, width=1008, height=567, seg_steps=800, inpaint_steps=600)
RATES = Rates(seg_step=0.05, inpaint_step=0.045, ray=5e-6, stereo=(0.1, 8.0))


# ----------------------------------------------------------------------------------------------------------- the choice
@pytest.mark.parametrize("seconds", [350, 420, 500, 650])
def test_what_is_chosen_takes_the_time_that_there_is(seconds):
    plan = choose(WORK, RATES, seconds, Settings())
    assert plan.fits and 0.97 * seconds <= plan.total <= 1.001 * seconds
    assert plan.total == sum(seconds_of(WORK, RATES, plan.settings).values())


def test_more_time_is_never_worked_on_more_coarsely():
    plans = [choose(WORK, RATES, seconds, Settings()) for seconds in range(150, 900, 30)]
    for short, long in zip(plans, plans[1:], strict=False):
        assert long.settings.stereo_width >= short.settings.stereo_width
        assert long.settings.downscale <= short.settings.downscale


def test_a_slower_machine_gets_less_to_do():
    fast, slow = (choose(WORK, RATES.scaled(factor), 500, Settings()) for factor in (1, 1.3))
    assert slow.fits and (slow.settings.stereo_width, -slow.settings.downscale, slow.settings.seg_steps) < (
        fast.settings.stereo_width, -fast.settings.downscale, fast.settings.seg_steps,
    )  # fmt: skip


def test_too_little_time_gives_the_least_and_says_so():
    plan, shortest = choose(WORK, RATES, 20, Settings()), least(WORK, RATES, Settings())
    assert not plan.fits and plan.settings == shortest.settings and plan.total == shortest.total > 20
    assert plan.settings.seg_steps == round(FEWEST * WORK.seg_steps)


def test_time_in_plenty_does_not_train_for_ever():
    plan = choose(WORK, RATES, 1e6, Settings())
    assert plan.fits and plan.total < 1e6
    assert plan.settings == Settings(504, round(MOST * 800), 1, round(MOST * 600))


def test_what_is_given_stays_and_the_rest_is_chosen_around_it():
    given = Settings(stereo_width=504, seg_steps=1500, downscale=1)
    plan = choose(WORK, RATES, 500, given)
    assert replace(plan.settings, inpaint_steps=None) == given and plan.settings.inpaint_steps is not None
    assert plan.settings.inpaint_steps < choose(WORK, RATES, 500, replace(given, seg_steps=500)).settings.inpaint_steps


def test_what_is_over_takes_no_time():
    later = replace(WORK, stereo=False, segmentation=False, seg_training=False)
    assert list(seconds_of(later, RATES, Settings(seg_steps=100, downscale=2, inpaint_steps=50))) == [
        "rendering", "what stays", "photos", "inpainting field",
    ]  # fmt: skip
    last = replace(later, export=False)
    plan = choose(last, RATES, 60, Settings(504, 400, 1))
    assert list(plan.parts) == ["inpainting field"] and plan.total == pytest.approx(60, abs=RATES.inpaint_step)
    kept = choose(replace(WORK, inpainting=False), RATES, 250, Settings())
    assert kept.settings.inpaint_steps is None and "photos" not in kept.parts


def test_narrow_photos_are_not_measured_wider_than_they_are():
    plan = choose(replace(WORK, width=384, height=288), RATES, 1000, Settings())
    assert plan.settings.stereo_width == 384
    assert least(replace(WORK, width=128, height=96), RATES, Settings()).settings.stereo_width == LEAST_WIDTH


@pytest.mark.parametrize(
    "samples, expected",
    [([(1.0, 3.0), (3.0, 7.0)], (1.0, 2.0)), ([(1.0, 1.0), (2.0, 4.0)], (0.0, 2.0)), ([(1.0, 5.0), (2.0, 4.0)], (0.0, 2.0))],
    ids=["a line", "no time for nothing", "a busy machine"],
)
def test_two_measurements_make_a_line_that_is_never_negative(samples, expected):
    assert line_fit(samples) == pytest.approx(expected)


def test_steps_pace_leaves_out_what_came_between():
    assert mean_step([0.0, 1.0, 2.0, 62.0, 63.0]) == 1.0
    assert mean_step([3.0]) == 0.0


def test_the_line_names_rates_settings_and_time():
    plan = choose(WORK, RATES, 400, Settings(downscale=2))
    text = said_of_plan(plan, Settings(downscale=2), RATES, 410, 10)
    for part in (
        "200000 rays/s",
        "50 ms a step",
        "--export.downscale 2 as given",
        f"--seg-steps {plan.settings.seg_steps}",
        "6:50",
    ):
        assert part in text, text
    assert "\n" not in text and minutes(125) == "2:05 min"


# ------------------------------------------------------------------------------------------------------------- a run
class Clock:
    """Seconds since a command was given."""

    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """Paces that nobody measured; counts how often they are asked for."""

    def __init__(self, seg: float = 0.05, inpaint: float = 0.05) -> None:
        self.clock, self.asked, self.seg, self.inpaint = Clock(), [], seg, inpaint

    def paces(self) -> Paces:
        def segmentation(method: str) -> tuple[float, float]:
            self.asked.append(method)
            return self.seg, self.seg / 10000

        def inpainting(method: str, removed: Path) -> Steps:
            self.asked.append(method)
            return Steps(self.inpaint, 2.0)

        def stereo(capture, workspace) -> tuple[float, float]:
            self.asked.append("stereo")
            return 0.1, 8.0

        return Paces(segmentation, stereo, inpainting, self.clock)


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> TwinScene:
    return write_twin(
        tmp_path_factory.mktemp("budget") / "scene", TwinConfig(width=64, height=48, num_train=5, num_test=1, supersampling=1)
    )


@pytest.fixture
def asked(twin, tmp_path):
    """Makes the budget of a command on a workspace, as `remove` does."""

    def make(machine: Machine, minutes: float = 2, **options) -> tuple[Remove, Budget]:
        pointing = Pointing(twin.root, twin.prompt_view, box="1,2,30,40", workspace=tmp_path / "w", **options.pop("pointing", {}))
        command = Remove(pointing, lite=True, minutes=minutes, **options)
        workspace = Workspace.open(twin.root, tmp_path / "w")
        return command, Budget(command, workspace, load_capture(twin.root), machine.paces())

    return make


def run_of(step: float) -> Run:
    return Run(Path("config.yml"), 1.0, tuple(step * index for index in range(30)))


def test_a_run_is_decided_step_by_step_and_each_decision_is_kept_before_it_is_used(asked, tmp_path, capsys):
    machine = Machine()
    command, budget = asked(machine)
    budget.begin()
    kept = tmp_path / "w" / FILE
    assert json.loads(kept.read_text())["settings"] == {"stereo_width": command.segment.stereo_width} == {"stereo_width": 64}
    machine.clock.now = 40
    budget.before_training()
    assert json.loads(kept.read_text())["settings"]["seg_steps"] == command.seg_steps
    machine.clock.now = 60
    budget.before_export(run_of(0.05))
    assert json.loads(kept.read_text())["settings"]["downscale"] == command.export.downscale == 1
    machine.clock.now = 75
    budget.before_inpainting(tmp_path)
    spared = 120 - 75 - 2
    assert 0.85 * spared <= command.inpaint_steps * 0.05 <= spared, "the time that is really left is trained"
    said = capsys.readouterr().out
    ends = re.findall(r"to end after about (\d+):(\d+) min", said)
    assert len(ends) == 2 and all(100 <= 60 * int(whole) + int(rest) <= 121 for whole, rest in ends), "what is over counts"
    assert said.count("--minutes 2:") == 4 and "WARNING" not in said
    assert machine.asked == ["spinnerf-seg-lite", "stereo", "spinnerf-inpaint-lite"]


def test_the_same_command_goes_on_with_what_was_decided(asked, tmp_path, capsys):
    first = Machine()
    command, budget = asked(first)
    budget.begin()
    first.clock.now = 50
    budget.before_training()
    killed = command.seg_steps
    second = Machine(seg=0.5, inpaint=0.02)  # busier now; that changes nothing of what was decided
    second.clock.now = 5
    command, budget = asked(second)
    budget.begin()
    budget.before_training()
    assert command.seg_steps == killed and second.asked == []
    second.clock.now = 20  # and 50 s of the run before
    budget.before_export(Run(Path("config.yml"), 0.0))
    budget.before_inpainting(tmp_path)
    assert command.inpaint_steps * 0.02 == pytest.approx(120 - 70 - 2, abs=4)
    done = command.inpaint_steps
    third = Machine()
    command, budget = asked(third)
    budget.begin()
    budget.before_training()
    budget.before_export(Run(Path("config.yml"), 0.0))
    budget.before_inpainting(tmp_path)
    assert (command.seg_steps, command.inpaint_steps, third.asked) == (killed, done, [])
    assert "all is decided" in capsys.readouterr().out


def test_other_minutes_another_box_or_a_damaged_file_are_decided_anew(asked, tmp_path):
    asked(Machine())[1].begin()
    for changed in ({"minutes": 3}, {"pointing": {"objects": ("vase",)}}, {"seg_steps": 7}):
        assert not asked(Machine(), **changed)[1].resumed, changed
    assert asked(Machine())[1].resumed
    (tmp_path / "w" / FILE).write_text('{"key": "cut sh')
    assert not asked(Machine())[1].resumed


def test_what_the_user_gives_wins_and_is_said(asked, tmp_path, capsys):
    command, budget = asked(Machine(), seg_steps=123, inpaint_steps=45, pointing={"stereo_width": 70})
    command.export.downscale = 2
    budget = Budget(command, budget.workspace, budget.capture, budget.paces)
    budget.begin()
    budget.before_training()
    budget.before_export(run_of(0.05))
    budget.before_inpainting(tmp_path)
    assert (command.seg_steps, command.inpaint_steps, command.segment.stereo_width, command.export.downscale) == (123, 45, 70, 2)
    said = capsys.readouterr().out
    assert "(--stereo-width 70 --seg-steps 123 --export.downscale 2 --inpaint-steps 45 as given)" in said


def test_too_few_minutes_are_said_at_the_beginning_and_the_least_is_done(asked, tmp_path, capsys):
    machine = Machine()
    command, budget = asked(machine, minutes=0.2)
    budget.begin()
    said = capsys.readouterr().out
    warning = next(line for line in said.splitlines() if line.startswith("WARNING"))
    assert "--minutes 0.2 is not enough here: the least that is possible takes about" in warning
    budget.before_training()
    budget.before_export(run_of(0.05))
    budget.before_inpainting(tmp_path)
    assert (command.seg_steps, command.inpaint_steps) == (100, 75)
    assert "will be passed" in capsys.readouterr().out


def test_a_pace_that_changes_on_the_way_changes_what_is_left(asked, tmp_path):
    chosen = []
    for now in (0.05, 0.1):
        machine = Machine(inpaint=now)
        command, budget = asked(machine, minutes=2 + now)  # each decided for itself
        budget.begin()
        budget.before_training()
        machine.clock.now = 60
        budget.before_export(run_of(now))
        budget.before_inpainting(tmp_path)
        chosen.append(command.inpaint_steps)
    assert chosen[1] == pytest.approx(chosen[0] / 2, rel=0.1)


def test_depth_that_stands_is_kept_as_it_was_measured(asked, tmp_path):
    workspace = Workspace.open(asked(Machine())[1].capture.data, tmp_path / "w")
    manifest = workspace.read_manifest()
    manifest["stages"]["stereo"] = {"key": "k", "outputs": {}, "records": {}, "parameters": {"options": {"width": 48}}}
    workspace.write_manifest(manifest)
    machine = Machine()
    command, budget = asked(machine)
    budget.begin()
    assert command.segment.stereo_width == 48 and "stereo" not in machine.asked


def test_an_export_that_stands_is_not_replaced_unasked(asked, tmp_path):
    workspace = Workspace.open(asked(Machine())[1].capture.data, tmp_path / "w")
    manifest = workspace.read_manifest()
    manifest["stages"]["render"] = {"key": "k", "outputs": {}, "records": {}, "parameters": {}}
    workspace.write_manifest(manifest)
    with pytest.raises(SpinnerfError, match="another budget, or none; .*--overwrite"):
        asked(Machine())
    assert not asked(Machine(), pointing={"overwrite": True})[1].resumed


@pytest.mark.parametrize("given", [0.0, -1.0, float("nan"), float("inf")])
def test_no_time_is_refused(twin, tmp_path, given):
    pointing = Pointing(twin.root, twin.prompt_view, box="1,2,30,40", workspace=tmp_path / "w")
    with pytest.raises(SpinnerfError, match="--minutes .*above 0"):
        remove(Remove(pointing, lite=True, minutes=given))
    assert not (tmp_path / "w" / FILE).exists()


def test_bad_input_is_refused_before_anything_is_measured(twin, tmp_path, monkeypatch):
    from spinnerf_ns.cli import pace

    monkeypatch.setattr(pace, "segmentation_pace", lambda method: pytest.fail("it was measured"))
    pointing = Pointing(twin.root, twin.prompt_view, points=("900,900",), workspace=tmp_path / "w")
    with pytest.raises(SpinnerfError, match="900"):
        remove(Remove(pointing, lite=True, minutes=2))
