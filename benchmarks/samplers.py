"""Time of a training step's pixel sampling at 100 photos of 1 megapixel, against nerfstudio's own samplers with masks.

    python benchmarks/samplers.py

The last line is one JSON object: ms_uniform, ms_inpaint (uniform + patches + gap pixels), ratio_vs_nerfstudio (rejection
sampling of the same number of rays with a mask), machine.
"""

from __future__ import annotations

import json
import os
import platform
import time

import torch
from nerfstudio.data.pixel_samplers import PixelSamplerConfig

from spinnerf_ns.nerf.data.pixel_samplers import PixelPool, sample_list, sample_patches, sample_usable

PHOTOS, HEIGHT, WIDTH, RAYS = 100, 866, 1155, 4096


def milliseconds(function, repeats: int = 50) -> float:
    """Median wall time of a call in ms, after two warm-up calls."""
    times = []
    for index in range(repeats + 2):
        start = time.perf_counter()
        function()
        if index >= 2:
            times.append(1000 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def main() -> None:
    """Builds the pool, times the samplers, prints the figures."""
    torch.manual_seed(0)
    to_fill = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    to_fill[300:550, 400:700] = True
    image = torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8)
    pool = PixelPool.from_images([image] * PHOTOS, usable=[~to_fill] * PHOTOS)
    inside = (to_fill.flatten().nonzero()[:, 0] + pool.starts[:-1, None]).flatten()

    def inpaint_step() -> None:
        uniform = sample_usable(pool, RAYS)
        patches = pool.flatten(sample_patches(pool, inside, 4, (54, 72), 2)).flatten()
        pool.image_colors(torch.cat([uniform, patches, sample_list(inside, 2048)]))

    uniform = milliseconds(lambda: pool.image_colors(sample_usable(pool, RAYS)))
    inpaint = milliseconds(inpaint_step)
    few = 10  # float images of 100 photos would take 1.2 GB; the stock sampler's time does not depend on their number
    batch = {
        "image": torch.zeros(few, HEIGHT, WIDTH, 3),
        "mask": (~to_fill)[None, ..., None].repeat(few, 1, 1, 1),
        "image_idx": torch.arange(few),
    }
    stock_sampler = PixelSamplerConfig(num_rays_per_batch=RAYS).setup()
    stock = milliseconds(lambda: stock_sampler.sample(batch))
    result = {
        "ms_uniform": round(uniform, 3),
        "ms_inpaint": round(inpaint, 3),
        "ms_nerfstudio_masked": round(stock, 3),
        "ratio_vs_nerfstudio": round(stock / uniform, 2),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
