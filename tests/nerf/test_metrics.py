"""Metrics against slow references, the reference packages, and cases worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.fid import evaluate_fid, load_fid_features
from spinnerf_ns.nerf.metrics import (
    MAX_PSNR,
    aggregate,
    available_lpips,
    bounding_box,
    evaluate_pair,
    evaluate_partly_true,
    evaluate_segmentation,
    ssim_map,
)


def _pair(seed: int = 0, height: int = 40, width: int = 56) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A smooth uint8 picture, a noisier one, and a mask off the centre."""
    random = np.random.default_rng(seed)
    truth = cv2.GaussianBlur(random.random((height, width, 3)), (0, 0), 2)
    truth = ((truth - truth.min()) / (truth.max() - truth.min()) * 255).astype(np.uint8)
    render = (truth + random.normal(0, 12, truth.shape)).clip(0, 255).astype(np.uint8)
    object_mask = np.zeros((height, width), dtype=bool)
    cv2_mask = object_mask.view(np.uint8)
    cv2.ellipse(cv2_mask, (width // 3, height // 2), (width // 6, height // 5), 20, 0, 360, 1, -1)
    return render, truth, object_mask


@pytest.fixture(scope="module")
def caffe_lpips(real_data: Path):
    """A trained LPIPS-SqueezeNet."""
    pytest.importorskip("lpips")
    path = real_data.parent / "weights" / "squeezenet1_1_caffe.pth"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    found, reasons = available_lpips(["squeeze"], {"squeeze": path}, allow_download=False)
    assert not reasons
    return found[0]


# ---------------------------------------------------------------------------------------------------------- segmentation
def test_segmentation_by_hand() -> None:
    truth = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=bool)
    predicted = np.array([[0, 1, 1, 0], [0, 1, 1, 0]], dtype=bool)
    assert evaluate_segmentation(predicted, truth) == {"accuracy_full": 0.5, "iou_object": pytest.approx(2 / 6)}
    assert evaluate_segmentation(truth, truth) == {"accuracy_full": 1.0, "iou_object": 1.0}


def test_segmentation_of_empty_absent_and_larger_masks() -> None:
    nothing, all_of_it = np.zeros((4, 6), dtype=bool), np.ones((4, 6), dtype=bool)
    assert evaluate_segmentation(nothing, nothing) == {"accuracy_full": 1.0}
    assert evaluate_segmentation(all_of_it, nothing) == {"accuracy_full": 0.0, "iou_object": 0.0}
    assert evaluate_segmentation(nothing, None) == {}
    small = np.array([[1, 0], [0, 0]], dtype=bool)
    assert evaluate_segmentation(small, np.kron(small, np.ones((3, 3), dtype=bool)))["iou_object"] == 1.0


# ------------------------------------------------------------------------------------------------------------------ psnr
def test_psnr_variants_by_hand() -> None:
    truth = np.zeros((10, 20, 3))
    render = np.full((10, 20, 3), 0.1)
    object_mask = np.zeros((10, 20), dtype=bool)
    object_mask[2:6, 5:15] = True  # 40 pixels
    render[object_mask] = (0.5, 0.0, 0.0)  # a third of 0.25
    render[5, 14] = 0.5
    figures = evaluate_pair(render, truth, object_mask)
    inside = (39 * 0.25 / 3 + 0.25) / 40
    assert figures["pixels_mask"] == 40 and figures["pixels_outside"] == 160
    assert figures["psnr_mask"] == pytest.approx(-10 * math.log10(inside))
    assert figures["psnr_outside"] == pytest.approx(20)
    assert figures["mse_full"] == pytest.approx((40 * inside + 160 * 0.01) / 200)
    # The box is 10 x 4: it grows by 1 pixel left and right, and by round(0.4) = 0 above and below.
    assert figures["pixels_bbox"] == 12 * 4
    assert figures["mse_bbox"] == pytest.approx((40 * inside + 8 * 0.01) / 48)


def test_bounding_box_grows_and_is_cut_at_the_border() -> None:
    object_mask = np.zeros((100, 100), dtype=bool)
    object_mask[40:70, 0:50] = True
    assert bounding_box(object_mask) == (0, 37, 55, 73)
    assert bounding_box(object_mask, margin=0) == (0, 40, 50, 70)
    assert bounding_box(np.zeros((4, 4), dtype=bool)) is None and bounding_box(None) is None


def test_psnr_equals_skimage() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    render, truth, _ = _pair()
    assert evaluate_pair(render, truth)["psnr_full"] == pytest.approx(peak_signal_noise_ratio(truth, render, data_range=255))


# ------------------------------------------------------------------------------------------------------------------ ssim
def test_ssim_equals_skimage() -> None:
    from skimage.metrics import structural_similarity

    render, truth, object_mask = _pair()
    options = dict(channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    expected, expected_map = structural_similarity(truth / 255, render / 255, full=True, **options)
    figures = evaluate_pair(render, truth, object_mask)
    assert np.allclose(ssim_map(render / 255, truth / 255), expected_map.mean(axis=-1), atol=1e-10)
    assert figures["ssim_full"] == pytest.approx(expected, abs=1e-10)
    assert figures["ssim_mask"] == pytest.approx(expected_map[object_mask].mean(), abs=1e-10)
    assert figures["ssim_outside"] == pytest.approx(expected_map[~object_mask].mean(), abs=1e-10)
    x0, y0, x1, y1 = bounding_box(object_mask)
    crop = structural_similarity(truth[y0:y1, x0:x1] / 255, render[y0:y1, x0:x1] / 255, **options)
    assert figures["ssim_bbox"] == pytest.approx(crop, abs=1e-10)


def test_ssim_equals_a_slow_reference_at_one_pixel() -> None:
    a, b = (x / 255 for x in _pair()[:2])
    x, y = 20, 15
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for channel in range(3):
        p, q = (image[y - 5 : y + 6, x - 5 : x + 6, channel] for image in (a, b))
        mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
        spread_p, spread_q = (weights * (p - mean_p) ** 2).sum(), (weights * (q - mean_q) ** 2).sum()
        together = (weights * (p - mean_p) * (q - mean_q)).sum()
        brightness = (2 * mean_p * mean_q + 1e-4) / (mean_p**2 + mean_q**2 + 1e-4)
        values.append(brightness * (2 * together + 9e-4) / (spread_p + spread_q + 9e-4))
    assert ssim_map(a, b)[y, x] == pytest.approx(np.mean(values), abs=1e-10)


def test_ssim_of_two_even_pictures_by_hand() -> None:
    a, b = np.full((20, 20, 3), 0.5), np.full((20, 20, 3), 0.25)
    expected = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)  # no contrast: only brightness counts
    assert evaluate_pair(a, b)["ssim_full"] == pytest.approx(expected)


def test_a_photo_that_is_partly_true_is_measured_there_alone() -> None:
    truth, render = np.zeros((20, 20, 3)), np.full((20, 20, 3), 0.1)
    is_truth = np.ones((20, 20), dtype=bool)
    is_truth[:10] = False
    truth[:10] = 1.0  # what the object looks like
    render[:10] = 0.3
    figures = evaluate_partly_true(render, truth, ~is_truth, is_truth)
    assert figures["psnr_outside"] == pytest.approx(20) and figures["pixels_outside"] == 200
    assert all(name.endswith("_outside") for name in figures)
    truth[:10] = 0.5
    assert evaluate_partly_true(render, truth, ~is_truth, is_truth) == figures
    whole = evaluate_partly_true(render, truth, ~is_truth, np.ones_like(is_truth))
    assert whole == evaluate_pair(render, truth, ~is_truth)


# ----------------------------------------------------------------------------------------------------------------- lpips
def test_lpips_variants_equal_the_package(caffe_lpips) -> None:
    render, truth, object_mask = _pair(height=120, width=160)
    figures = evaluate_pair(render, truth, object_mask, lpips=caffe_lpips)
    reference = caffe_lpips.network  # the package's own class and forward
    a, b = (torch.from_numpy(x / 255).permute(2, 0, 1)[None].float() for x in (render, truth))
    with torch.no_grad():
        whole = reference(a, b, normalize=True).item()
        x0, y0, x1, y1 = bounding_box(object_mask)
        crop = reference(a[..., y0:y1, x0:x1], b[..., y0:y1, x0:x1], normalize=True).item()
        reference.spatial = True
        spatial = reference(a, b, normalize=True)[0, 0].numpy()
        reference.spatial = False
    assert figures["lpips-squeeze-caffe_full"] == pytest.approx(whole, rel=1e-4)
    assert figures["lpips-squeeze-caffe_bbox"] == pytest.approx(crop, rel=1e-4)
    assert figures["lpips-squeeze-caffe_mask"] == pytest.approx(spatial[object_mask].mean(), rel=1e-4)
    assert figures["lpips-squeeze-caffe_outside"] == pytest.approx(spatial[~object_mask].mean(), rel=1e-4)
    assert len({round(figures[f"lpips-squeeze-caffe_{v}"], 6) for v in ("full", "bbox", "mask", "outside")}) == 4


def test_lpips_without_weights_is_answered_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("SPINNERF_WEIGHTS", str(tmp_path))
    found, reasons = available_lpips(["vgg", "alex"], allow_download=False)
    assert found == [] and set(reasons) == {"lpips-vgg", "lpips-alex"} and all(reasons.values())


# --------------------------------------------------------------------------------------------------------- what is absent
def test_absent_truth_and_masks_are_answered() -> None:
    render, truth, object_mask = _pair()
    assert evaluate_pair(render, None, object_mask) == {}
    assert {key.rsplit("_", 1)[1] for key in evaluate_pair(render, truth)} == {"full"}
    empty = evaluate_pair(render, truth, np.zeros_like(object_mask))
    assert {key.rsplit("_", 1)[1] for key in empty} == {"full", "outside"}
    assert empty["psnr_outside"] == empty["psnr_full"]
    everything = evaluate_pair(render, truth, np.ones_like(object_mask))
    assert {key.rsplit("_", 1)[1] for key in everything} == {"full", "bbox", "mask"}


def test_one_masked_pixel_and_equal_pictures_stay_finite() -> None:
    _, truth, _ = _pair()
    speck = np.zeros(truth.shape[:2], dtype=bool)
    speck[0, 0] = True
    figures = evaluate_pair(truth, truth, speck)
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["psnr_mask"] == MAX_PSNR and figures["ssim_bbox"] == pytest.approx(1)
    black = evaluate_pair(np.zeros((3, 3, 3)), np.zeros((3, 3, 3)), np.eye(3, dtype=bool))
    assert black["ssim_full"] == pytest.approx(1) and black["psnr_full"] == MAX_PSNR


def test_pictures_of_different_sizes_and_kinds() -> None:
    render, truth, object_mask = _pair()
    doubled = np.kron(truth, np.ones((2, 2, 1), dtype=np.uint8))
    same = evaluate_pair(render, doubled, np.kron(object_mask, np.ones((2, 2), dtype=bool)))
    assert same == pytest.approx(evaluate_pair(render, truth, object_mask), abs=1e-9)
    as_tensor = evaluate_pair(torch.from_numpy(render / 255), truth, object_mask)
    assert as_tensor == pytest.approx(evaluate_pair(render, truth, object_mask))
    with pytest.raises(SpinnerfError, match="other proportions"):
        evaluate_pair(render, truth[:, :30])
    with pytest.raises(SpinnerfError, match="not finite"):
        evaluate_pair(np.full(truth.shape, np.nan), truth)
    with pytest.raises(SpinnerfError, match="height, width, 3"):
        evaluate_pair(render[..., 0], truth)


# ------------------------------------------------------------------------------------------------------------- aggregate
def test_mean_of_psnr_and_psnr_of_the_mean_are_told_apart() -> None:
    rows = [
        {"mse_mask": 0.01, "pixels_mask": 100.0, "psnr_mask": 20.0, "psnr_full": 30.0},
        {"mse_mask": 0.0001, "pixels_mask": 300.0, "psnr_mask": 40.0},
        {},
    ]
    result = aggregate(rows)
    assert result["psnr_mask"] == 30 and result["psnr_full"] == 30 and result["views_mask"] == 2
    assert result["psnr_mask_pooled"] == pytest.approx(-10 * math.log10((0.01 + 3 * 0.0001) / 4))
    assert "pixels_mask" not in result
    assert aggregate([]) == {} and aggregate([{}]) == {}


def test_pooled_psnr_equals_all_pixels_thrown_together() -> None:
    rows, errors = [], []
    for seed in range(3):
        render, truth, object_mask = _pair(seed, height=30 + 10 * seed)
        rows.append(evaluate_pair(render, truth, object_mask))
        errors.append(((render / 255 - truth / 255) ** 2)[object_mask].ravel())
    assert aggregate(rows)["psnr_mask_pooled"] == pytest.approx(-10 * math.log10(np.concatenate(errors).mean()))


# ------------------------------------------------------------------------------------------------------------------- fid
class _Means(torch.nn.Module):
    """Features of which the distance can be worked out by hand: the mean colour."""

    num_features = 3

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.dtype == torch.uint8
        return pictures.double().mean(dim=(2, 3))


def test_fid_equals_the_formula() -> None:
    from scipy.linalg import sqrtm

    pairs = [_pair(seed) for seed in range(12)]
    renders = [render for render, _, _ in pairs]
    truths = [np.roll(truth, 1, axis=-1) // 2 for _, truth, _ in pairs]
    figures, reasons = evaluate_fid(renders, truths, [mask for _, _, mask in pairs], features=_Means())
    a, b = (np.array([picture.mean(axis=(0, 1)) for picture in pictures]) for pictures in (renders, truths))
    s, t = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * np.real(sqrtm(s @ t)))
    assert figures["fid_full"] == pytest.approx(expected, rel=1e-3)
    assert reasons == {} and figures["fid_bbox"] > 0 and figures["fid_bbox"] != pytest.approx(figures["fid_full"], rel=1e-3)


def test_fid_of_even_pictures_by_hand() -> None:
    """Sets of one colour each do not vary: the distance is that of the colours, squared."""
    dark, bright = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 13, np.uint8)
    figures, _ = evaluate_fid([dark] * 4, [bright] * 4, features=_Means())
    assert figures["fid_full"] == pytest.approx(3 * 3**2)


def test_fid_from_a_file_of_weights(tmp_path: Path) -> None:
    """With random weights in the published file's layout, against Fréchet's formula for two pictures each."""
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # the class reads a file when it is built: this one is to be written
        patch.setattr(inception, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)  # the default's features would all but vanish
    file = tmp_path / "inception.pth"
    torch.save(network.state_dict(), file)
    pairs = [_pair(seed)[:2] for seed in range(2)]
    figures, _ = evaluate_fid(*zip(*pairs, strict=True), features=load_fid_features(file))
    batch = torch.from_numpy(np.stack([picture for pair in pairs for picture in pair])).permute(0, 3, 1, 2)
    a1, b1, a2, b2 = network(batch)[0].double().numpy()
    u, v = (a1 - a2) / 2**0.5, (b1 - b2) / 2**0.5  # the covariances are u u' and v v'
    expected = (((a1 + a2) / 2 - (b1 + b2) / 2) ** 2).sum() + u @ u + v @ v - 2 * abs(u @ v)
    # torchmetrics sums the roots of 2048 eigenvalues of which one is not rounding noise: hence 5 %.
    assert expected > 0.01 and figures["fid_full"] == pytest.approx(expected, rel=0.05)


def test_fid_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    render, truth, object_mask = _pair()
    figures, reasons = evaluate_fid([render] * 3, [truth] * 3)
    assert figures == {} and "weights" in reasons["fid_full"]
    figures, reasons = evaluate_fid([render] * 3, [truth, truth, None], [object_mask, None, object_mask], features=_Means())
    assert set(figures) == {"fid_full"} and "only 1 " in reasons["fid_bbox"]
    text = tmp_path / "inception.pth"
    text.write_text("no weights")
    with pytest.raises(SpinnerfError, match="inception.pth"):
        load_fid_features(text)
    with pytest.raises(SpinnerfError, match="nowhere.pth"):
        load_fid_features(tmp_path / "nowhere.pth")
