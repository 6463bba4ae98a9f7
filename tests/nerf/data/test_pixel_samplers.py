"""The pixel pool and its samplers, against the definitions."""

from __future__ import annotations

import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf.data.pixel_samplers import FAMILIES, PixelPool, RayLayout, sample_patches, sample_usable

SIZES = [(12, 20), (30, 17), (25, 25)]


@pytest.fixture
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (h, w, 3), dtype=torch.uint8, generator=generator) for h, w in SIZES]


def test_locate_and_flatten_are_inverse_over_every_pixel(images):
    pool = PixelPool.from_images(images)
    flat = torch.arange(pool.num_pixels)
    pixels = pool.locate(flat)
    assert torch.equal(pool.flatten(pixels), flat)
    expected = [(i, y, x) for i, (h, w) in enumerate(SIZES) for y in range(h) for x in range(w)]
    assert pixels.tolist() == [list(pixel) for pixel in expected]


def test_colors_are_the_pixels(images):
    pool = PixelPool.from_images(images)
    flat = torch.randint(pool.num_pixels, (200,))
    for (i, y, x), color in zip(pool.locate(flat).tolist(), pool.image_colors(flat), strict=True):
        assert torch.equal(color, images[i][y, x].float() / 255)


def test_uniform_part_is_uniform_and_keeps_off_the_hole(images):
    torch.manual_seed(0)
    usable = [torch.ones(h, w, dtype=torch.bool) for h, w in SIZES]
    usable[1][5:20, 3:9] = False
    pool = PixelPool.from_images(images, usable=usable)
    draws = 400_000
    counts = torch.bincount(sample_usable(pool, draws), minlength=pool.num_pixels).double()
    allowed = torch.cat([mask.flatten() for mask in usable])
    assert counts[~allowed].sum() == 0
    expected = draws / int(allowed.sum())
    chi_square = ((counts[allowed] - expected) ** 2 / expected).sum()
    freedom = int(allowed.sum()) - 1
    assert abs(float(chi_square) - freedom) < 5 * (2 * freedom) ** 0.5  # mean k, variance 2k


def test_no_usable_pixel_is_an_error_and_not_for_ever(images):
    """A pool whose usable pixels were all taken away later: by the removed regions, or by gaps."""
    pool = PixelPool.from_images(images)
    pool.usable = torch.zeros(pool.num_pixels, dtype=torch.bool)
    with pytest.raises(SpinnerfError, match="not one pixel"):
        sample_usable(pool, 8)


def test_few_usable_pixels_are_drawn_evenly_in_one_go(images):
    torch.manual_seed(0)
    pool = PixelPool.from_images(images)
    few = torch.tensor([3, 700, pool.num_pixels - 1])
    pool.usable = torch.zeros(pool.num_pixels, dtype=torch.bool)
    pool.usable[few] = True
    found, counts = sample_usable(pool, 30_000).unique(return_counts=True)
    assert torch.equal(found, few)
    assert (counts - 10_000).abs().max() < 500
    pool.usable = torch.zeros(pool.num_pixels, dtype=torch.bool)
    pool.usable[5] = True  # what was listed for other masks is not taken for these
    assert sample_usable(pool, 100).unique().tolist() == [5]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_patch_covers_the_hole_and_lies_inside_its_photo(images, stride):
    torch.manual_seed(0)
    pool = PixelPool.from_images(images)
    all_to_fill = [torch.zeros(h, w, dtype=torch.bool) for h, w in SIZES]
    all_to_fill[0][0, 0] = all_to_fill[0][11, 19] = True  # corners: where a patch has to be moved inside
    all_to_fill[2][10:14, 20:25] = True
    to_fill = torch.cat([mask.flatten() for mask in all_to_fill]).nonzero()[:, 0]
    patches = sample_patches(pool, to_fill, 500, (3, 4), stride)
    assert patches.shape == (500, 3, 4, 3)
    for patch in patches:
        photo = int(patch[0, 0, 0])
        assert (patch[..., 0] == photo).all()
        rows, columns = patch[:, 0, 1], patch[0, :, 2]
        assert (rows.diff() == stride).all() and (columns.diff() == stride).all()
        height, width = SIZES[photo]
        assert rows.min() >= 0 and columns.min() >= 0 and rows.max() < height and columns.max() < width
        extent = all_to_fill[photo][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert extent.any()


def test_patches_reach_every_pixel_of_the_hole(images):
    torch.manual_seed(0)
    pool = PixelPool.from_images(images)
    to_fill = pool.flatten(torch.tensor([[0, y, x] for y in range(12) for x in range(20)]))
    seen = torch.unique(pool.flatten(sample_patches(pool, to_fill, 2000, (3, 3))))
    assert torch.equal(seen, to_fill)


def test_a_photo_smaller_than_the_patch_is_named(images):
    pool = PixelPool.from_images(images)
    with pytest.raises(SpinnerfError, match="20x12"):
        sample_patches(pool, torch.tensor([0]), 1, (13, 4))


def test_inverted_masks_are_refused(images):
    with pytest.raises(SpinnerfError, match="inverted"):
        PixelPool.from_images(images, usable=[torch.zeros(h, w, dtype=torch.bool) for h, w in SIZES])


def test_layout_splits_in_the_order_of_its_fields():
    layout = RayLayout(uniform=5, patches=(2, 3, 4), depth=7, reference=1, sparse=2)
    assert layout.num_rays == 5 + 24 + 7 + 1 + 2
    parts = [torch.arange(layout.num_rays)[layout.rows(family)] for family in FAMILIES]
    assert [len(part) for part in parts] == [5, 24, 7, 1, 2]
    assert torch.equal(torch.cat(parts), torch.arange(layout.num_rays))
    assert torch.equal(layout.geometry_rows(), torch.cat([parts[0], parts[2], parts[4]]))
    assert RayLayout(uniform=5, depth=3, sparse=1).geometry_rows() is None
