"""The contract that every registered inpainter keeps; see spinnerf_ns/removal/inpainters/__init__.py."""

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import write_png
from spinnerf_ns.removal.inpainters import INPAINTERS, Inpainter
from tests.removal.networks import save_diffusion, save_lama

EMBEDDED = ("opencv", "patchmatch")
NETWORKS = ("lama", "diffusion")
NAMES = [name for name in INPAINTERS.names() if name != "folder"]  # folder wants a file per photo: a class of its own below


@pytest.fixture(scope="session")
def options(tmp_path_factory):
    """What each inpainter needs: small networks of the published ones' classes, in the published files' formats."""

    @cache
    def of(name):
        if name == "lama":
            return {"weights": save_lama(tmp_path_factory.mktemp("lama") / "small.pt"), "trust_weights": True}
        if name == "diffusion":
            for package in ("diffusers", "transformers"):
                if importlib.util.find_spec(package) is None:
                    pytest.skip(f"the package {package} is not installed (extra diffusion)")
            return {"weights": save_diffusion(tmp_path_factory.mktemp("diffusion") / "model"), "steps": 2}
        return {}

    return of


@pytest.fixture(scope="session")
def create(options):
    """Makes an inpainter by its name; a network is read once and then lent."""

    @cache
    def loaded(name):
        inpainter = INPAINTERS.create(name, **options(name))
        inpainter.prepare()
        return inpainter

    def make(name):
        if name not in NETWORKS:
            return INPAINTERS.create(name)
        inpainter = INPAINTERS.create(name, **options(name))
        vars(inpainter).update(vars(loaded(name)))
        return inpainter

    return make


def photo(height: int, width: int, seed: int = 0):
    """Stripes and noise: something that is neither flat nor grey."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(-20, 20, (height, width, 3))
    waves = np.stack([128 + 80 * np.sin(x / 5 + y / 9), 128 + 80 * np.cos(y / 4), 40 + x * 150 / width], axis=-1)
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def box(height: int, width: int, rows: slice, columns: slice):
    to_fill = np.zeros((height, width), bool)
    to_fill[rows, columns] = True
    return to_fill


CASES = {
    "ordinary": (photo(48, 64), box(48, 64, slice(12, 30), slice(20, 40))),
    "odd size": (photo(37, 53), box(37, 53, slice(0, 11), slice(30, 53))),
    "one pixel": (photo(32, 40), box(32, 40, slice(7, 8), slice(39, 40))),
    "grey": (np.repeat(photo(40, 40)[..., :1], 3, axis=2), box(40, 40, slice(10, 20), slice(5, 30))),
    "most of the photo": (photo(30, 40), ~box(30, 40, slice(20, 30), slice(0, 40))),
    "two gaps": (photo(40, 60), box(40, 60, slice(5, 15), slice(5, 15)) | box(40, 60, slice(22, 36), slice(40, 56))),
    "tiny photo": (photo(5, 7), box(5, 7, slice(1, 3), slice(2, 5))),
    "one pixel left": (photo(12, 12), ~box(12, 12, slice(3, 4), slice(8, 9))),
}


def test_embedded_ones_and_networks_are_here():
    assert {*EMBEDDED, *NETWORKS} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_protocol_and_nothing_heavy_before_the_first_photo(name):
    assert isinstance(INPAINTERS.create(name), Inpainter)  # without weights, and with no network
    assert INPAINTERS.create(name).name == name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_shape_type_and_outside(create, name, case):
    image, to_fill = CASES[case]
    image_before, hole_before = image.copy(), to_fill.copy()
    filled = create(name).inpaint(image, to_fill)
    assert filled.shape == image.shape and filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[~to_fill], image[~to_fill])
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(to_fill, hole_before)
    if case == "grey" and name in EMBEDDED:
        assert (np.ptp(filled.astype(int), axis=2) <= 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_stood_in_the_hole_is_gone(create, name):
    image, to_fill = CASES["ordinary"]
    red, green = image.copy(), image.copy()
    red[to_fill], green[to_fill] = (255, 0, 0), (0, 255, 0)
    inpainter = create(name)
    np.testing.assert_array_equal(inpainter.inpaint(red, to_fill), inpainter.inpaint(green, to_fill))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_donor_is_neither_drawn_from_nor_changed(create, name):
    image, to_fill = CASES["ordinary"]
    donors = ~to_fill
    donors[:, image.shape[1] // 2 :] = False
    other = np.where((donors | to_fill)[..., None], image, 255 - image)
    one, same = (create(name).inpaint_from(given, to_fill, donors) for given in (image, other))
    np.testing.assert_array_equal(one[to_fill], same[to_fill])
    np.testing.assert_array_equal(one[~to_fill], image[~to_fill])


def test_patches_are_looked_for_where_donors_are(create):
    image = np.full((60, 400, 3), (10, 200, 10), np.uint8)
    to_fill, donors = box(60, 400, slice(20, 40), slice(360, 380)), np.zeros((60, 400), bool)
    image[:, :60], donors[:, :60] = (200, 10, 10), True
    filled = create("patchmatch").inpaint_from(image, to_fill, donors)
    assert (np.abs(filled[to_fill].astype(int) - (200, 10, 10)) < 8).all()


@pytest.mark.parametrize("name", EMBEDDED)
def test_flat_photo_stays_flat(create, name):
    image, to_fill = np.full((40, 50, 3), (200, 100, 30), np.uint8), box(40, 50, slice(10, 30), slice(15, 35))
    given = image.copy()
    given[to_fill] = 0
    filled = create(name).inpaint(given, to_fill)
    assert np.abs(filled.astype(int) - image).max() <= 8  # OpenCV's Telea drifts by a few levels


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_does_not_depend_on_what_was_filled_before(create, name):
    cases = [CASES[case] for case in ("ordinary", "odd size", "two gaps")]
    one, other = create(name), create(name)
    filled = [one.inpaint(*case) for case in cases]
    for case, expected in list(zip(cases, filled))[::-1]:
        np.testing.assert_array_equal(other.inpaint(*case), expected)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_gap_and_a_full_one(create, name):
    inpainter = create(name)
    image = photo(20, 30)
    filled = inpainter.inpaint(image, np.zeros((20, 30), bool))
    np.testing.assert_array_equal(filled, image)
    assert not np.shares_memory(filled, image)
    with pytest.raises(SpinnerfError, match="cam0/x: the gap covers the whole photo"):
        inpainter.inpaint(image, np.ones((20, 30), bool), "cam0/x")


@pytest.mark.parametrize("name", NAMES)
def test_bad_input(create, name):
    inpainter, image, to_fill = create(name), *CASES["ordinary"]
    for given in ((image, to_fill[1:]), (image, to_fill.astype(np.uint8)), (image / 255, to_fill)):
        with pytest.raises(SpinnerfError):
            inpainter.inpaint(*given)


@pytest.mark.parametrize("name", NAMES)
def test_disparity(create, name):
    inpainter = create(name)
    y, x = np.mgrid[:61, :83]
    plane = (0.02 + 1e-4 * x + 2e-4 * y).astype(np.float32)
    to_fill = box(61, 83, slice(20, 45), slice(30, 60))
    given = np.where(to_fill, 0, plane)
    filled = inpainter.inpaint_disparity(given, to_fill)
    assert filled.shape == plane.shape and filled.dtype == np.float32
    np.testing.assert_array_equal(filled[~to_fill], plane[~to_fill])
    assert np.abs(filled / plane - 1).max() < 0.02  # an 8-bit detour at the photo's scale would be beyond this
    np.testing.assert_array_equal(inpainter.inpaint_disparity(given, to_fill), filled)
    np.testing.assert_array_equal(inpainter.inpaint_disparity(plane, np.zeros_like(to_fill)), plane)
    with pytest.raises(SpinnerfError):
        inpainter.inpaint_disparity(plane, np.ones_like(to_fill))


MOST_MEMORY = 1.3e9
"""Bytes in which a process fills a 4000x3000 photo, Python and torch included; LaMa is told that 0.5 GB are its share (the
published weights take 0.2 GB more)."""

MOST_MEMORY_ON_TOP = 0.6e9
"""The same for the diffusion model's crop and the photo's copies, on top of a process that has its packages loaded."""

LARGE_PHOTO = """
import json, sys
from spinnerf_ns.removal.inpainters import INPAINTERS
from tests.removal.test_inpainters import fill_large_photo

print(json.dumps({name: fill_large_photo(INPAINTERS.create(name, **o))[1] for name, o in json.loads(sys.argv[1]).items()}))
"""


def fill_large_photo(inpainter):
    """Fills a 4000x3000 photo; resident bytes before, and at the peak."""
    y, x = np.mgrid[:3000, :4000].astype(np.uint16)
    image = np.stack([x % 251, (x + y) % 253, y % 241], axis=-1).astype(np.uint8)
    to_fill = box(3000, 4000, slice(1400, 1480), slice(1800, 1900))
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    filled = inpainter.inpaint(image, to_fill)
    peak = resident("VmHWM")
    np.testing.assert_array_equal(filled[~to_fill], image[~to_fill])
    assert (filled[to_fill] != image[to_fill]).any()
    return before, peak


def resident(field):
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


reads_memory = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")


@reads_memory
def test_a_4000_pixel_wide_photo_in_the_stated_memory(options):
    wanted = {name: options(name) for name in NAMES if name != "diffusion"}
    wanted["lama"] = {**wanted["lama"], "memory_limit": 0.5}
    command = [sys.executable, "-W", "ignore", "-c", LARGE_PHOTO, json.dumps(wanted, default=str)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stderr
    peaks = json.loads(run.stdout.splitlines()[-1])
    assert set(peaks) == set(wanted) and max(peaks.values()) < MOST_MEMORY, peaks


@reads_memory
def test_diffusion_sees_a_4000_pixel_wide_photo_in_the_stated_memory(create):
    before, peak = fill_large_photo(create("diffusion"))  # here: importing its packages once more would take longer
    assert peak - before < MOST_MEMORY_ON_TOP


def test_opencv_options():
    image, to_fill = CASES["ordinary"]
    telea, ns = (INPAINTERS.create("opencv", method=method).inpaint(image, to_fill) for method in ("telea", "ns"))
    assert (telea != ns).any()
    for options in ({"method": "magic"}, {"radius": 0}, {"radii": 3}):
        with pytest.raises(SpinnerfError):
            INPAINTERS.create("opencv", **options)


class TestFolder:
    def create(self, tmp_path):
        return INPAINTERS.create("folder", folder=tmp_path)

    def test_takes_only_the_hole(self, tmp_path):
        image, to_fill = CASES["odd size"]
        mended = photo(*image.shape[:2], seed=9)
        write_png(tmp_path / "cam0" / "a.b.png", mended)
        filled = self.create(tmp_path).inpaint(image, to_fill, "cam0/a.b")
        np.testing.assert_array_equal(filled[to_fill], mended[to_fill])
        np.testing.assert_array_equal(filled[~to_fill], image[~to_fill])

    def test_key_with_its_suffix(self, tmp_path):
        image, to_fill = CASES["odd size"]
        write_png(tmp_path / "a.png", photo(*image.shape[:2], seed=9))
        assert self.create(tmp_path).path_of("a.png") == self.create(tmp_path).path_of("a") == tmp_path / "a.png"

    def test_missing_doubtful_and_of_another_size(self, tmp_path):
        image, to_fill = CASES["odd size"]
        inpainter = self.create(tmp_path)
        with pytest.raises(SpinnerfError, match="a.png: this mended photo is missing"):
            inpainter.inpaint(image, to_fill, "a")
        write_png(tmp_path / "a.png", photo(10, 12))
        with pytest.raises(SpinnerfError, match="12x10.*53x37"):
            inpainter.inpaint(image, to_fill, "a")
        (tmp_path / "a.JPG").write_bytes(b"")
        with pytest.raises(SpinnerfError, match="2 files"):
            inpainter.path_of("a")

    def test_no_folder(self, tmp_path):
        with pytest.raises(SpinnerfError, match="folder="):
            INPAINTERS.create("folder")
        with pytest.raises(SpinnerfError, match="missing"):
            INPAINTERS.create("folder", folder=tmp_path / "none")


class TestPatchmatch:
    def stripes(self):
        y, x = np.mgrid[:90, :120]
        value = np.where((x // 6 + y // 40) % 2, 210, 40) + np.random.default_rng(3).integers(-8, 8, (90, 120))
        return np.repeat(value.astype(np.uint8)[..., None], 3, axis=2), box(90, 120, slice(44, 76), slice(45, 77))

    def test_continues_texture_where_opencv_blurs(self):
        truth, to_fill = self.stripes()
        given = np.where(to_fill[..., None], np.uint8(128), truth)
        filled = {name: INPAINTERS.create(name).inpaint(given, to_fill) for name in ("opencv", "patchmatch")}
        error = {name: np.sqrt(np.mean((image[to_fill].astype(float) - truth[to_fill]) ** 2)) for name, image in filled.items()}
        assert error["patchmatch"] < 25 and error["patchmatch"] < error["opencv"] / 2

    def test_large_holes_are_composed_at_a_coarser_scale(self):
        truth, to_fill = self.stripes()
        filled = INPAINTERS.create("patchmatch", max_gap=300).inpaint(truth, to_fill)
        assert np.sqrt(np.mean((filled[to_fill].astype(float) - truth[to_fill]) ** 2)) < 60
        assert filled[to_fill].std() > 60

    def test_seed_and_options(self):
        image, to_fill = CASES["ordinary"]
        one, other = (INPAINTERS.create("patchmatch", seed=seed).inpaint(image, to_fill) for seed in (0, 1))
        assert (one != other).any()
        for options in ({"patch": 4}, {"patch": 1}, {"surroundings": 0}):
            with pytest.raises(SpinnerfError):
                INPAINTERS.create("patchmatch", **options)
