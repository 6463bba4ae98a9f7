"""The benchmark: what scenes stand for, what a cell is made of, going on after an interruption, and the tables."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from spinnerf_ns.cli import main
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.matrix import benchmark
from spinnerf_ns.evaluation.matrix import worker as benchmark_worker
from spinnerf_ns.evaluation.matrix.benchmark import BenchmarkConfig, Paths, cell_settings, digest, run_benchmark, scene_key
from spinnerf_ns.evaluation.matrix.scenes import SPIN_NERF_SCENES, find_scenes, prepare_scene
from spinnerf_ns.evaluation.matrix.table import markdown, spread, where_ours_is_not_best, write_results
from spinnerf_ns.files import load_object_mask, read_image, save_object_mask, write_png
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.scene.cameras import project, unproject
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from tests.evaluation.conftest import EXPORT, export_truth, tiny
from tests.nerf.conftest import no_network


# ---------------------------------------------------------------------------------------------------------------- scenes
def _published(folder: Path, photos: int = 100, test_labels: tuple[str, tuple[int, int]] | None = None) -> None:
    """A SPIn-NeRF scene as it is published, with tiny photos: the first 40 show no object.

    Args:
        test_labels: how masks of all of these are called, by number from 1, and their (height, width); by default every second has
            one, called as its photo and of its size.
    """
    table = np.zeros((photos, 17))
    for row in range(photos):
        matrix = np.zeros((3, 5))
        matrix[:, :3] = np.eye(3)
        matrix[:, 3] = (0.1 * row, 0.01 * row, 0)
        matrix[:, 4] = (96, 128, 100)
        table[row] = [*matrix.ravel(), 1.0, 10.0]
        write_png(folder / "images_4" / f"photo_{row:03d}.png", np.full((24, 32, 3), row, np.uint8))
        if test_labels is not None and row < 40:
            mask = np.zeros(test_labels[1], dtype=bool)
            mask[8:16, 10 : 11 + row % 20] = True
            save_object_mask(folder / "images_4/test_label" / test_labels[0].format(row + 1), mask)
        elif row % 2:  # not every photo is labelled
            mask = np.zeros((24, 32), dtype=bool)
            mask[8:16, 10:20] = True
            kind = "test_label" if row < 40 else "label"
            save_object_mask(folder / "images_4" / kind / f"photo_{row:03d}.png", mask)
    np.save(folder / "poses_bounds.npy", table)


def test_a_published_scene_is_converted_by_its_protocol(tmp_path) -> None:
    _published(tmp_path / "book")
    (source,) = find_scenes([str(tmp_path / "book")])
    assert (source.name, source.kind) == ("book", "spin-nerf")
    scene = prepare_scene(source, tmp_path / "out", "key")
    assert len(scene.object_free) == 40 and Workspace.open(scene.root).object_free == scene.object_free
    known = scene.known()
    assert [each.object_mask is not None for each in known] == [bool(row % 2) for row in range(40)]
    assert all(each.object_free and each.photo is not None for each in known)
    assert scene.prompt.mask_path is not None and load_object_mask(scene.prompt.mask_path).sum() == 80
    assert scene.prompt.view not in scene.object_free


def test_test_masks_of_other_names_and_a_few_rows_more_are_paired_in_order(tmp_path) -> None:
    """As the published test_label/ are: numbered by themselves, and not all of the photos' size."""
    _published(tmp_path / "book", test_labels=("out{}.png", (48, 64)))
    for index in (3, 20):  # a row more at twice the size: half a row of the photo's
        path = tmp_path / f"book/images_4/test_label/out{index}.png"
        mask = load_object_mask(path)
        save_object_mask(path, np.pad(mask, [(0, 1), (0, 0)]))
    scene = prepare_scene(find_scenes([str(tmp_path / "book")])[0], tmp_path / "out", "key")
    known = scene.known()
    assert len(known) == 40 and all(each.object_mask.shape == (24, 32) for each in known)
    areas = np.array([each.object_mask.sum() for each in known])
    assert np.abs(areas - [2 * (1 + row % 20) for row in range(40)]).max() <= 2


def test_all_ten_scenes_come_from_their_folder_and_a_missing_one_is_named(tmp_path) -> None:
    for name in SPIN_NERF_SCENES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "poses_bounds.npy").touch()
    assert tuple(source.name for source in find_scenes([str(tmp_path)])) == SPIN_NERF_SCENES
    (tmp_path / "12" / "poses_bounds.npy").unlink()
    with pytest.raises(SpinnerfError, match=r"12/poses_bounds\.npy: missing"):
        find_scenes([str(tmp_path)])
    _published(tmp_path / "x" / "book", photos=99)
    with pytest.raises(SpinnerfError, match="99 photos"):
        prepare_scene(find_scenes([str(tmp_path / "x" / "book")])[0], tmp_path / "out", "key")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out_original").exists()


@pytest.mark.parametrize("names, expected", [(["nowhere"], "no such scene"), (["{tmp}"], "ns-spinnerf plant"), ([], "no scene")])
def test_scenes_that_are_none(names, expected, tmp_path) -> None:
    with pytest.raises(SpinnerfError, match=expected):
        find_scenes([name.format(tmp=tmp_path) for name in names])


def test_two_scenes_of_one_name(twin, tmp_path) -> None:
    with pytest.raises(SpinnerfError, match="two scenes"):
        find_scenes([str(twin.root), str(twin.root)])


def test_downscaling_keeps_what_a_pixel_shows(twin, tmp_path) -> None:
    scene = prepare_scene(find_scenes([str(twin.root)])[0], tmp_path / "out", "key", downscale=2)
    full, half = load_capture(twin.root), scene.capture
    assert half.photos == full.photos and list(scene.object_free) == [Path(photo).stem for photo in twin.object_free]
    for view in full.views:
        small = half.view(view.photo)
        assert (small.width, small.height) == (view.width // 2, view.height // 2)
        point = unproject(view, [(40.0, 20.0)], [3.0])
        np.testing.assert_allclose(project(small, point)[0], project(view, point)[0] / 2, atol=1e-4)
        np.testing.assert_array_equal(small.read_image(), cv2.resize(view.read_image(), (32, 24), interpolation=cv2.INTER_AREA))
    box = np.array(scene.prompt.box)
    np.testing.assert_allclose(box * 2, twin.prompt_box)
    photo = twin.object_free[0]
    ratio = scene.known()[0].object_mask.sum() / load_object_mask(twin.truth(photo, "object_masks")).sum()
    assert 0.2 < ratio < 0.3
    assert read_image(scene.with_object_path(Path(photo).stem)).shape == (24, 32, 3)


def test_a_prepared_scene_is_found_again_and_made_again_for_another_key(twin, tmp_path) -> None:
    (source,) = find_scenes([str(twin.root)])
    prepare_scene(source, tmp_path / "out", "a")
    (tmp_path / "out" / "mark").touch()
    prepare_scene(source, tmp_path / "out", "a")
    assert (tmp_path / "out" / "mark").exists()
    prepare_scene(source, tmp_path / "out", "b")
    assert not (tmp_path / "out" / "mark").exists()


@pytest.mark.parametrize(
    "masks, tracked, expected", [("auto", 4, "tracked"), ("auto", 1, "true"), ("tracked", 1, "tracked"), ("true", 4, "true")]
)
def test_methods_start_from_true_masks_where_tracking_fails(masks, tracked, expected, twin, tmp_path, monkeypatch) -> None:
    from spinnerf_ns.segmentation import segment

    def track(capture, workspace, *rest, **options):
        for photo in twin.train_photos[:tracked]:
            mask = load_object_mask(twin.truth(photo, "object_masks"))
            save_object_mask(workspace.mask_path("masks_2d", Path(photo).stem), mask)

    monkeypatch.setattr(segment, "segment_capture", track)
    config = BenchmarkConfig((str(twin.root),), seeds=(0,), output=tmp_path, masks=masks)
    (source,) = find_scenes(config.scenes)
    benchmark_worker.prepare(config, source)
    seed = benchmark_worker.Seed(config, source, 0)
    found = benchmark_worker.mask_source(seed.scene.root)
    assert (found["source"], found["tracked"], found["photos"]) == (expected, tracked, 4)
    assert seed.masks == (seed.scene.root / "labels" if expected == "true" else Workspace.open(seed.scene.root).masks_2d)
    assert (seed.masks / f"{Path(twin.train_photos[0]).stem}.png").is_file()


# ----------------------------------------------------------------------------------------------------------------- cells
def test_a_cell_is_trained_measured_and_not_computed_again(twin, tmp_path, monkeypatch) -> None:
    config = BenchmarkConfig((str(twin.root),), ("per-view-detached",), (3,), tmp_path, steps=2, perceptual_loss="ssim")
    (source,) = find_scenes(config.scenes)
    prepare_scene(source, Paths(tmp_path, source.name).capture, scene_key(source, config))
    seed = benchmark_worker.Seed(config, source, 3)
    export_truth(twin, seed.workspace("per-view"), EXPORT)
    monkeypatch.setattr(benchmark_worker, "method_config", lambda name: tiny("spinnerf-inpaint-lite"))
    with no_network():
        seed.method_cell("per-view-detached", {"seconds": {"train_seg": 1.0}})
    path = Paths(tmp_path, source.name, 3).cell("per-view-detached")
    cell = json.loads(path.read_text())
    assert {"psnr_mask", "psnr_bbox", "psnr_outside", "ssim_mask", "consistency_seen_full"} <= set(cell["figures"])
    assert cell["seconds"]["train_seg"] == 1.0 and cell["seconds"]["train"] > 0
    # Ours would start from a field trained for as many steps as the segmentation: the others get these too.
    assert cell["settings"]["steps"] == 2 + seed._seg_config().max_num_iterations
    assert {p.stem for p in path.with_suffix("").glob("*.png")} == set(seed.scene.object_free)
    (run,) = (seed.paths.shared / "runs").rglob("config.yml")
    assert yaml.load(run.read_text(), Loader=yaml.Loader).machine.seed == 3
    before = path.stat().st_mtime_ns
    seed.method_cell("per-view-detached", {"seconds": {}})
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("method", ["per-view", "segmentation"])
def test_a_cell_is_written_whatever_the_export_is_told(method, twin, tmp_path) -> None:
    """A folder of inpainted photos and a mended reference photo are paths, which JSON has not."""
    export = ExportConfig(inpainter="folder", inpainted=tmp_path / "inpainted", reference_photo=tmp_path / "mended.png")
    config = BenchmarkConfig((str(twin.root),), ("per-view",), (0,), tmp_path, perceptual_loss="ssim", export=export)
    (source,) = find_scenes(config.scenes)
    prepare_scene(source, Paths(tmp_path, source.name).capture, scene_key(source, config))
    seed = benchmark_worker.Seed(config, source, 0)
    seed._write(method, {"settings": cell_settings(config, method), "figures": {"psnr_mask": np.float32(20)}})
    cell = json.loads(Paths(tmp_path, source.name, 0).cell(method).read_text())
    assert cell["settings"]["export"]["inpainted"] == str(tmp_path / "inpainted")
    assert digest(cell["settings"]) == digest(cell_settings(config, method))


def _cells(config: BenchmarkConfig, value=lambda method, seed: 20.0) -> None:
    """Writes finished cells, as a worker would."""
    for source in find_scenes(config.scenes):
        for seed in config.seeds:
            for method in config.methods:
                key = digest(cell_settings(config, method), scene_key(source, config), seed)
                path = Paths(config.output, source.name, seed).cell(method)
                path.parent.mkdir(parents=True, exist_ok=True)
                figures = {"psnr_mask": value(method, seed), "lpips-vgg_bbox": 0.5}
                path.write_text(json.dumps({"key": key, "figures": figures, "seconds": {"train": 1.0}}))


@pytest.fixture
def config(tmp_path) -> BenchmarkConfig:
    return BenchmarkConfig(("twin",), ("masked-nerf", "ours"), (0, 1), tmp_path, jobs=2, perceptual_loss="ssim")


def test_only_missing_cells_are_computed(config, monkeypatch) -> None:
    asked = []

    def run(jobs, *rest):
        asked.append(list(jobs))
        return {}

    monkeypatch.setattr(benchmark, "_run_all", run)
    run_benchmark(config, say=lambda text: None)
    assert asked == [[("twin", "prepare")], [("twin", "0"), ("twin", "1")]]
    _cells(config)
    Paths(config.output, "twin", 1).cell("ours").unlink()
    asked.clear()
    result = run_benchmark(config, say=lambda text: None)
    assert asked[1] == [("twin", "1")] and "twin, seed 1, ours" in result["missing"]
    _cells(config)
    asked.clear()
    run_benchmark(config, say=lambda text: None)
    assert asked == [[], []]
    config.steps = 10  # other settings: none of the cells counts
    run_benchmark(config, say=lambda text: None)
    assert asked[3] == [("twin", "0"), ("twin", "1")]


def test_a_job_that_fails_is_named_with_its_log_and_the_rest_goes_on(config, monkeypatch, twin) -> None:
    broken = config.output.parent / "broken" / "twin.json"
    broken.parent.mkdir(exist_ok=True)
    broken.write_text("{}")
    config.scenes, config.seeds, config.methods = (str(broken.parent),), (0,), ("ours",)
    lines = []
    with pytest.raises(SpinnerfError, match="broken-prepare first: .*twin.json.*logs/broken-prepare.log"):
        run_benchmark(config, say=lines.append)
    assert "failed" in lines[-1] and (config.output / "benchmark.md").is_file()
    assert (config.output / "plan.yml").is_file()


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--scenes", "twin", "--methods", "magic"], "no method is called 'magic'"),
        (["--scenes", "{tmp}/none"], "no such scene"),
        (["--scenes", "twin", "--lpips-weights", "{tmp}/vgg.pth"], "vgg.pth: this weights file is missing"),
    ],
)
def test_bad_input_is_one_line(arguments, expected, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", "--output", f"{tmp_path}/out", *(each.format(tmp=tmp_path) for each in arguments)])
    error = capsys.readouterr().err.strip()
    assert expected in error and "\n" not in error and not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------- tables
def test_mean_and_spread_by_hand() -> None:
    figures = spread([{"psnr_mask": 20.0, "fid_bbox": 7.0}, {"psnr_mask": 22.0}, {"psnr_mask": 27.0}])
    assert figures["psnr_mask"] == {"mean": 23.0, "std": pytest.approx(13**0.5), "n": 3}
    assert figures["fid_bbox"] == {"mean": 7.0, "std": 0.0, "n": 1}


def test_the_table_says_who_is_best_and_where_ours_is_not(config) -> None:
    _cells(config, lambda method, seed: {"ours": 20.0, "masked-nerf": 24.0}[method] + seed)
    result = write_results(config, ["twin"])
    assert result["scenes"]["twin"]["ours"]["psnr_mask"]["mean"] == 20.5
    (loss,) = result["losses"]
    assert (loss["figure"], loss["method"], loss["beyond_spread"]) == ("psnr_mask", "masked-nerf", True)
    text = (config.output / "benchmark.md").read_text()
    assert "| twin | masked-nerf | **24.50** ± 0.71 |" in text and "| twin | ours | 20.50 ± 0.71 |" in text
    assert "* twin, psnr_mask: masked-nerf 24.50, ours 20.50\n" in text
    assert json.loads((config.output / "benchmark.json").read_text())["losses"] == result["losses"]


def test_a_difference_within_the_spread_is_called_so() -> None:
    rows = {"ours": {"lpips-vgg_mask": {"mean": 0.5, "std": 0.1, "n": 3}}}
    rows["release"] = {"lpips-vgg_mask": {"mean": 0.45, "std": 0.1, "n": 3}}
    result = {"scenes": {"s": rows}, "settings": {}, "mean": {}, "missing": []}
    result["losses"] = where_ours_is_not_best(result)
    assert result["losses"][0]["beyond_spread"] is False and "(within the spread)" in markdown(result)
    rows["release"]["lpips-vgg_mask"]["mean"] = 0.6
    assert where_ours_is_not_best(result) == []
