"""The kernel's sources and colours against numpy's, and when which is used."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from spinnerf_ns.accel import kernels
from spinnerf_ns.accel.native import VARIABLE
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.inpainters import INPAINTERS, patch_kernel
from spinnerf_ns.removal.inpainters.patch_field import Field, Level
from spinnerf_ns.removal.inpainters.patch_kernel import NativeField, field_class

needs_compiler = pytest.mark.skipif(kernels.find_compiler() is None, reason="no C++ compiler: no native kernel")


@pytest.fixture(autouse=True)
def untried():
    """Implementations are tried anew."""
    patch_kernel.KERNEL.forget()
    yield
    patch_kernel.KERNEL.forget()


def noise(height: int, width: int, seed: int = 0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def all_to_fill(height: int, width: int, *boxes: tuple[int, int, int, int]):
    to_fill = np.zeros((height, width), bool)
    for top, bottom, left, right in boxes:
        to_fill[top:bottom, left:right] = True
    return to_fill


CASES = {
    "inside": (noise(40, 60), all_to_fill(40, 60, (12, 28, 20, 39)), 7),
    "at a border": (noise(33, 47), all_to_fill(33, 47, (20, 33, 10, 30)), 7),
    "in the corners": (noise(39, 52), all_to_fill(39, 52, (0, 9, 0, 14), (25, 39, 40, 52)), 5),
    "patches of three pixels": (noise(24, 31), all_to_fill(24, 31, (3, 17, 0, 12)), 3),
    "patches of nine pixels": (noise(45, 40), all_to_fill(45, 40, (30, 45, 12, 30)), 9),
    "large patches": (noise(60, 66), all_to_fill(60, 66, (20, 37, 22, 40)), 13),
    "flat": (np.full((40, 44, 3), (200, 100, 30), np.uint8), all_to_fill(40, 44, (10, 26, 8, 30)), 7),
    "several pieces": (noise(50, 64), all_to_fill(50, 64, (5, 16, 6, 18), (8, 26, 30, 44), (34, 50, 12, 50)), 7),
    "stripes": (np.tile(noise(1, 4), (56, 16, 1)), all_to_fill(56, 64, (14, 40, 20, 44)), 7),
}


def searched(implementation: type[Field], case: str, threads: int = 1):
    """A field after two searches, on one scale; a part of what is unknown is not to be composed."""
    image, to_fill, patch = CASES[case]
    rest = to_fill.copy()
    rest[:, : to_fill.shape[1] // 4] = False
    level = Level(np.where(to_fill[..., None], 0, image).astype(np.float32), ~to_fill, rest)
    field = implementation(level, patch, np.random.default_rng(3))
    field.scatter()
    field.vote(sharpness=1.0)
    with mock.patch.object(patch_kernel, "kernel_threads", lambda: threads):
        for sweeps, radius in ((2, max(to_fill.shape)), (1, 6)):
            field.search(sweeps, radius)
            field.vote(sharpness=1.0)
        field.close_seam()
    return field


@needs_compiler
@pytest.mark.parametrize("case", [case for case in CASES if case != "stripes"])  # there rounding may decide between like patches
def test_the_kernel_and_numpy_choose_alike(case):
    theirs, ours = searched(Field, case), searched(NativeField, case)
    assert (theirs.source_rows != theirs.rows).any() and np.isfinite(theirs.cost).all()
    np.testing.assert_array_equal(ours.source_rows, theirs.source_rows)
    np.testing.assert_array_equal(ours.source_columns, theirs.source_columns)
    np.testing.assert_allclose(ours.cost, theirs.cost, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.level.image, theirs.level.image, rtol=1e-5, atol=1e-3)


@needs_compiler
def test_threads_change_nothing(monkeypatch):
    # A thread takes 8192 patches at least.
    monkeypatch.setitem(CASES, "large gap", (noise(220, 210, seed=1), all_to_fill(220, 210, (20, 210, 0, 180)), 5))
    one, many = searched(NativeField, "large gap"), searched(NativeField, "large gap", threads=3)
    assert one.rows.size > 3 * 8192 and one.level.piece.sum() > 2 * 2048
    for name in ("source_rows", "source_columns", "cost"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))
    np.testing.assert_array_equal(one.level.image, many.level.image)


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_holes_are_filled_alike(case, monkeypatch):
    image, to_fill, patch = CASES[case]
    filled = []
    for choice in ("off", "native"):
        monkeypatch.setenv(VARIABLE, choice)
        filled.append(INPAINTERS.create("patchmatch", patch=patch).inpaint(image, to_fill))
    assert np.abs(filled[0].astype(int) - filled[1]).max() <= 1


@pytest.mark.parametrize("choice", ["off", pytest.param("native", marks=needs_compiler), "auto", ""])
def test_the_variable_chooses(choice, monkeypatch):
    monkeypatch.setenv(VARIABLE, choice)
    has_compiler = kernels.find_compiler() is not None
    assert field_class() is (NativeField if choice != "off" and has_compiler else Field)


def test_an_unknown_implementation_is_an_error(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fastest")
    image, to_fill, _ = CASES["inside"]
    with pytest.raises(SpinnerfError, match="SPINNERF_KERNELS=fastest: .* set it to auto, off, native"):
        INPAINTERS.create("patchmatch").inpaint(image, to_fill)


def test_without_a_compiler_numpy_does_it(monkeypatch, tmp_path, capsys):
    patch_kernel.KERNEL.forget()
    monkeypatch.setattr(kernels, "find_compiler", lambda: None)
    monkeypatch.setenv("SPINNERF_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "auto")
    image, to_fill, _ = CASES["inside"]
    with mock.patch.object(Field, "_try", autospec=True, side_effect=Field._try) as tried:
        INPAINTERS.create("patchmatch").inpaint(image, to_fill)
    assert tried.called and "no C++ compiler found" in capsys.readouterr().out.replace("\n", " ")
    monkeypatch.setenv(VARIABLE, "native")
    with pytest.raises(SpinnerfError, match="kernel patch_kernel, which can't be had here"):
        field_class()


@needs_compiler
@pytest.mark.parametrize(
    "name, wrong",
    [
        ("_propagate", lambda self, down, right: Field._propagate(self, right, down)),
        ("_try_around", lambda self, drawn: None),
        ("_mean_of_votes", lambda self, rows, columns, trust: Field._mean_of_votes(self, rows, columns, np.ones_like(trust))),
        ("_propagate", mock.Mock(side_effect=kernels.KernelUnavailable("no compiler"))),
        ("_look", mock.Mock(side_effect=AttributeError("undefined symbol: spinnerf_patch_weigh"))),
    ],
    ids=["down is right", "nothing around", "equal votes", "unavailable", "damaged"],
)
def test_a_kernel_that_fails_is_not_used(name, wrong, monkeypatch, capsys):
    assert patch_kernel.KERNEL.failure() is None
    if not isinstance(wrong, mock.Mock):  # on numpy's path, so that it is this method alone that differs
        for other in ("_look", "_propagate", "_try_around", "_mean_of_votes"):
            monkeypatch.setattr(NativeField, other, getattr(Field, other))
        assert patch_kernel.KERNEL.failure() is None
    monkeypatch.setattr(NativeField, name, wrong)
    monkeypatch.setenv(VARIABLE, "auto")
    assert field_class() is Field
    assert "patchmatch runs on numpy" in capsys.readouterr().out.replace("\n", " ")
    monkeypatch.setenv(VARIABLE, "native")
    with pytest.raises(SpinnerfError, match="kernel patch_kernel, which can't be had here"):
        field_class()
