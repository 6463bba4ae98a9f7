"""A finished run measured: by ns-spinnerf evaluate, and by stock ns-eval."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import yaml

from spinnerf_ns.cli import main
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.evaluate import evaluate_run, variant_table
from spinnerf_ns.evaluation.measure import Known, measure_renders
from spinnerf_ns.files import load_object_mask, read_image
from spinnerf_ns.nerf.metrics import evaluate_pair
from spinnerf_ns.scene.capture import load_capture
from tests.nerf.conftest import no_network


def _view(removed, index: int = 0):
    return load_capture(removed).views[index]


def test_of_a_photo_that_shows_the_object_only_the_outside_is_measured(removed) -> None:
    from spinnerf_ns.evaluation.consistency import RenderedView

    random = np.random.default_rng(0)
    views = load_capture(removed).views[:2]
    photo, render = (random.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(2))
    mask = np.zeros((48, 64), dtype=bool)
    mask[10:30, 20:40] = True
    renders = [RenderedView(view, render, np.zeros((48, 64)), mask) for view in views]
    measured = measure_renders(renders, [Known(views[0], photo, mask, object_free=False), Known(views[1], photo, mask)])
    shown, free = (measured.per_view[view.photo] for view in views)
    assert {name.rsplit("_", 1)[1] for name in shown} == {"outside"}
    assert {name.rsplit("_", 1)[1] for name in free} == {"full", "bbox", "mask", "outside"}
    assert shown["psnr_outside"] == free["psnr_outside"]
    changed = photo.copy()
    changed[mask] = 0  # what the object looks like cannot matter
    again = measure_renders(renders[:1], [Known(views[0], changed, mask, object_free=False)])
    assert again.per_view[views[0].photo] == shown
    assert measured.figures["views_mask"] == 1 and measured.figures["views_outside"] == 2


def test_what_is_not_known_is_absent_with_a_reason(removed) -> None:
    from spinnerf_ns.evaluation.consistency import RenderedView

    view = _view(removed)
    render = RenderedView(view, np.zeros((48, 64, 3)), np.zeros((48, 64)))
    photo = np.zeros((48, 64, 3), dtype=np.uint8)
    unlabelled = measure_renders([render], [Known(view, photo, None)])
    assert "psnr_full" in unlabelled.figures and "psnr_mask" not in unlabelled.figures
    assert "nobody knows" in unlabelled.absent["psnr_mask"] and "lpips" in unlabelled.absent
    somewhere = measure_renders([render], [Known(view, photo, None, object_free=False)])
    assert not somewhere.figures and "without the object" in somewhere.absent["psnr_full"]


def test_evaluate_writes_a_table_json_and_a_report(inpaint_run, twin, tmp_path, capsys) -> None:
    with no_network():
        main(["evaluate", "--load-config", str(inpaint_run), "--output", str(tmp_path)])
    text = capsys.readouterr().out
    content = json.loads((tmp_path / "evaluation.json").read_text())
    figures = content["figures"]
    expected = ("psnr_mask", "psnr_bbox", "psnr_outside", "psnr_full", "ssim_mask", "consistency_seen_full")
    assert set(expected) <= set(figures)
    assert figures["iou_object_refined"] == 1.0, "masks_3d are the true ones here"
    assert set(content["per_view"]) == {name.removeprefix("images/").removesuffix(".png") for name in twin.object_free}
    assert f"{figures['psnr_mask']:.2f}" in text and "fid" in content["absent"]
    page = (tmp_path / "report.html").read_text()
    assert "before" in page and "after" in page and "truth" in page and "id=split" in page


def test_figures_are_those_of_the_renders(inpaint_run, twin) -> None:
    from spinnerf_ns.evaluation.baselines import load_pipeline
    from spinnerf_ns.nerf.rendering import render_pixels

    evaluation = evaluate_run(inpaint_run)
    pipeline = load_pipeline(inpaint_run)
    capture = load_capture(twin.root)
    photo = twin.object_free[0]
    view = capture.view(photo)
    render = np.clip(render_pixels(pipeline.model, capture.cameras([view]), ("rgb",))["rgb"], 0, 1)
    mask = load_object_mask(twin.truth(photo, "object_masks"))
    expected = evaluate_pair(render, read_image(twin.truth(photo, "images")), mask)
    assert evaluation.measured.per_view[view.photo] == pytest.approx(expected, rel=1e-4)


def test_training_photos_are_measured_outside_the_removed_region(inpaint_run) -> None:
    evaluation = evaluate_run(inpaint_run, split="train")
    assert set(variant_table(evaluation.measured.figures)) <= {"outside", "mask", "full"}
    psnr = [name for name in evaluation.measured.figures if name.startswith("psnr_")]
    assert sorted(psnr) == ["psnr_outside", "psnr_outside_pooled"]


def test_labels_of_another_size_and_folder_are_taken(inpaint_run, twin, tmp_path) -> None:
    for photo in twin.object_free:  # as published with SPIn-NeRF: larger, and 0/1
        mask = load_object_mask(twin.truth(photo, "object_masks")).astype(np.uint8)
        cv2.imwrite(str(tmp_path / twin.truth(photo, "images").name), cv2.resize(mask, None, fx=4, fy=4, interpolation=0))
    own = evaluate_run(inpaint_run).measured.figures
    given = evaluate_run(inpaint_run, labels=tmp_path).measured.figures
    assert given["psnr_mask"] == pytest.approx(own["psnr_mask"])
    with pytest.raises(SpinnerfError, match="no such folder"):
        evaluate_run(inpaint_run, labels=tmp_path / "absent")


def test_stock_ns_eval_prints_masked_figures(inpaint_run, tmp_path) -> None:
    from nerfstudio.scripts.eval import ComputePSNR

    with no_network():
        ComputePSNR(load_config=inpaint_run, output_path=tmp_path / "eval.json").main()
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    figures = evaluate_run(inpaint_run).measured.figures
    for name in ("psnr_mask", "psnr_bbox", "psnr_outside", "ssim_mask"):
        assert results[name] == pytest.approx(figures[name], rel=1e-3)
    assert results["psnr"] == pytest.approx(figures["psnr_full"], rel=1e-3)
    assert {"psnr_mask_std", "fps"} <= set(results)


def test_ns_eval_averages_over_the_photos_that_have_a_figure(inpaint_run) -> None:
    """Stock nerfstudio takes the first photo's names for all photos, and would fail or drop figures."""
    from spinnerf_ns.evaluation.baselines import load_pipeline

    pipeline = load_pipeline(inpaint_run)
    rows = iter([{"psnr_outside": 10.0}, {"psnr_outside": 20.0, "psnr_mask": 7.0}])
    pipeline.model.get_image_metrics_and_images = lambda outputs, batch: (next(rows), {})
    results = pipeline.get_average_eval_image_metrics(get_std=True)
    assert results["psnr_outside"] == 15 and results["psnr_mask"] == 7 and results["views_psnr_mask"] == 1
    assert results["psnr_outside_std"] == pytest.approx(50**0.5) and results["psnr_mask_std"] == 0


def test_a_run_that_is_absent_is_one_line(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--load-config", str(tmp_path / "config.yml")])
    error = capsys.readouterr().err.strip()
    assert "ns-train" in error and "\n" not in error


def test_a_capture_that_was_renamed_with_its_runs_is_measured_by_the_same_command(twin, inpaint_run, tmp_path) -> None:
    """What config.yml names is another place by then."""
    import shutil

    runs = inpaint_run.parents[3]
    scene = shutil.copytree(twin.root, tmp_path / "a scene [2]")
    shutil.copytree(runs, tmp_path / "runs")
    config = tmp_path / "runs" / inpaint_run.relative_to(runs)
    named = yaml.load(config.read_text(), Loader=yaml.Loader)
    named.output_dir, named.data = tmp_path / "runs", tmp_path / "before/spinnerf/removed"
    named.pipeline.datamanager.data = named.data
    config.write_text(yaml.dump(named))
    with pytest.raises(SpinnerfError, match="is not at .*before/spinnerf/removed any more; say where it is: ns-spinnerf evaluate"):
        evaluate_run(config)
    found = evaluate_run(config, data=scene / "spinnerf/removed").measured.figures
    assert found["psnr_mask"] == pytest.approx(evaluate_run(inpaint_run).measured.figures["psnr_mask"])
