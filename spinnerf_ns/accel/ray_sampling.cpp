// Where samples lie: along a ray, in space, and in the hash grid.
//
// In torch each of these is ten to thirty operations on arrays of a hundred kilobytes, so that most of the time goes into
// starting them. Here each is one pass. The arithmetic is that of nerfstudio's torch path, operation by operation and without
// fused multiply-add, so that results are equal bit by bit.
//
// Arrays are float32. Where rows may lie further apart, or all be the same one, `_step` says how many floats apart.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "parallel.hpp"

namespace {

constexpr int64_t TASK = 8192;  // samples a task has at least: fewer are done before another thread wakes up
constexpr int BLOCK = 128;      // points whose coordinates stay in the cache

// Runs body(first, last) over ranges of `rows` that hold `width` values each.
template <class Body>
void for_rows(int64_t rows, int64_t width, int threads, const Body& body) {
  const int64_t size = std::max<int64_t>(1, TASK / std::max<int64_t>(width, 1));
  parallel_for((rows + size - 1) / size, threads,
               [&](int64_t task) { body(task * size, std::min(rows, (task + 1) * size)); });
}

// Cumulative distribution over a ray's bins, from 0, of padded weights and their sum: count + 1 numbers.
void cumulate(const float* weights, int count, float sum, float eps, float* cdf) {
  const float missing = eps - sum < 0.0f ? 0.0f : eps - sum;  // a ray without weight is sampled evenly; NaN stays
  const float each = missing / static_cast<float>(count);
  sum += missing;
  cdf[0] = 0.0f;
  for (int i = 0; i < count; ++i) cdf[i + 1] = (weights[i] + each) / sum;
  double running = 0.0;  // torch.cumsum adds in double, too
  for (int i = 1; i <= count; ++i) {
    running += cdf[i];
    const float rounded = static_cast<float>(running);
    cdf[i] = rounded > 1.0f ? 1.0f : rounded;
  }
}

// above[i] = how many entries of cdf are not larger than u[i], as torch.searchsorted(side="right"): all u at once, so that no
// branch has to be guessed. cdf holds 2 * top - 1 entries, top a power of two, of which the last ones may be infinity.
void search(const float* cdf, int top, const float* u, int edges, int* above) {
  std::fill_n(above, edges, 0);
  for (int step = top; step > 0; step /= 2)
    for (int i = 0; i < edges; ++i) above[i] += cdf[above[i] + step - 1] > u[i] ? 0 : step;
}

// Where between the edges of `count` old bins the cumulative distribution reaches u.
void interpolate(const float* cdf, const float* old, int count, const float* u, const int* above, int edges,
                 float* __restrict out) {
  for (int i = 0; i < edges; ++i) {
    const int low = above[i] > 0 ? above[i] - 1 : 0, high = above[i] < count ? above[i] : count;
    float t = (u[i] - cdf[low]) / (cdf[high] - cdf[low]);
    t = t > 0.0f ? t : 0.0f;  // NaN, from an empty bin, is 0
    t = t < 1.0f ? t : 1.0f;
    out[i] = old[low] + t * (old[high] - old[low]);
  }
}

// Coordinates of a block of points, one array per axis.
struct Block {
  float of[3][BLOCK];
  float size[BLOCK];
};

// Divides by the maximum norm, outside the unit cube: in one factor per point or, as nerfstudio does it, per coordinate. The
// two differ in the last bit.
template <bool PER_COORDINATE>
void contract(Block& block, int count) {
  for (int i = 0; i < count; ++i) {
    const float x = std::fabs(block.of[0][i]), y = std::fabs(block.of[1][i]), z = std::fabs(block.of[2][i]);
    const float larger = x > y ? x : y, largest = larger > z ? larger : z, sum = x + y + z;
    block.size[i] = sum == sum ? largest : sum;  // as torch's amax: NaN if one of them is
  }
  for (int axis = 0; axis < 3; ++axis)
    for (int i = 0; i < count; ++i) {
      const float x = block.of[axis][i], size = block.size[i];
      if (PER_COORDINATE) {
        const float outside = (2.0f - 1.0f / size) * (x / size);
        block.of[axis][i] = size < 1.0f ? x : outside;
      } else {
        const float outside = size < 1.0f ? 1.0f : size;
        block.of[axis][i] = x * ((2.0f - 1.0f / outside) / outside);
      }
    }
}

template <bool PER_COORDINATE>
void grid_block(const float* positions, int count, const float* center, float radius, float* points, float* inside) {
  Block block;
  for (int axis = 0; axis < 3; ++axis)
    for (int i = 0; i < count; ++i) block.of[axis][i] = (positions[3 * i + axis] - center[axis]) / radius;
  contract<PER_COORDINATE>(block, count);
  for (int i = 0; i < count; ++i) inside[i] = 1.0f;
  for (int axis = 0; axis < 3; ++axis)
    for (int i = 0; i < count; ++i) {
      const float x = block.of[axis][i] = (block.of[axis][i] + 2.0f) * 0.25f;
      inside[i] = (x > 0.0f) & (x < 1.0f) ? inside[i] : 0.0f;
    }
  for (int i = 0; i < count; ++i)
    for (int axis = 0; axis < 3; ++axis) points[3 * i + axis] = block.of[axis][i] * inside[i];
}

}  // namespace

extern "C" {

// Edges of new bins -> out (rays, edges), from the padded weights (rays, count) of old ones and their sums (rays). The old
// bins' first edges are starts (rays, count), their last edge is the last of ends (rays, count). levels (edges) are the values
// of the cumulative distribution to look for; jitter (rays, jitter_count), jitter_count 0, 1 or edges, is added in units of
// 1 / edges.
void spinnerf_resample_bins(const float* weights, int64_t weights_step, const float* sums, const float* starts,
                            int64_t starts_step, const float* ends, int64_t ends_step, int64_t rays, int count,
                            const float* levels, const float* jitter, int jitter_count, int edges, float eps, float* out,
                            int threads) {
  int top = 1;
  while (2 * top - 1 < count + 1) top *= 2;
  for_rows(rays, count + edges, threads, [&](int64_t first, int64_t last) {
    std::vector<float> cdf(2 * top - 1, std::numeric_limits<float>::infinity()), old(count + 1), u(levels, levels + edges);
    std::vector<int> above(edges);
    const float unit = static_cast<float>(edges);
    for (int64_t ray = first; ray < last; ++ray) {
      cumulate(weights + ray * weights_step, count, sums[ray], eps, cdf.data());
      std::copy_n(starts + ray * starts_step, count, old.data());
      old[count] = ends[ray * ends_step + count - 1];
      const float* own = jitter + ray * jitter_count;
      if (jitter_count == 1)
        for (int i = 0; i < edges; ++i) u[i] = levels[i] + own[0] / unit;
      else if (jitter_count > 1)
        for (int i = 0; i < edges; ++i) u[i] = levels[i] + own[i] / unit;
      search(cdf.data(), top, u.data(), edges, above.data());
      interpolate(cdf.data(), old.data(), count, u.data(), above.data(), edges, out + ray * edges);
    }
  });
}

// Distances along the ray at bin edges (rays, edges) in [0, 1], half of which are even up to `radius`, half in disparity;
// nears and fars (rays) are in the same spacing.
void spinnerf_piecewise_distances(const float* bins, int64_t bins_step, int64_t rays, int edges, const float* nears,
                                  const float* fars, float radius, float* out, int threads) {
  for_rows(rays, edges, threads, [&](int64_t first, int64_t last) {
    for (int64_t ray = first; ray < last; ++ray) {
      const float near = nears[ray], far = fars[ray];
      for (int i = 0; i < edges; ++i) {
        const float x = bins[ray * bins_step + i], s = x * far + (1.0f - x) * near;
        const float beyond = 1.0f / (2.0f - 2.0f * s) * radius;
        out[ray * edges + i] = s < 0.5f ? 2.0f * radius * s : beyond;
      }
    }
  });
}

// Centres of samples: origins and directions (rays, 3), starts and ends (rays, count) -> out (rays, count, 3).
void spinnerf_sample_positions(const float* origins, const float* directions, const float* starts, int64_t starts_step,
                               const float* ends, int64_t ends_step, int64_t rays, int count, float* out, int threads) {
  for_rows(rays, count, threads, [&](int64_t first, int64_t last) {
    for (int64_t ray = first; ray < last; ++ray) {
      const float *origin = origins + 3 * ray, *direction = directions + 3 * ray;
      const float *start = starts + ray * starts_step, *end = ends + ray * ends_step;
      float* to = out + 3 * ray * count;
      for (int i = 0; i < count; ++i)
        for (int axis = 0; axis < 3; ++axis) to[3 * i + axis] = origin[axis] + direction[axis] * (start[i] + end[i]) * 0.5f;
    }
  });
}

// Positions (n, 3) -> points (n, 3) in the grid's [0, 1], 0 where they are outside of it, and inside (n): 1 or 0.
void spinnerf_grid_points(const float* positions, int64_t n, const float* center, const float* radius, int per_coordinate,
                          float* points, float* inside, int threads) {
  for_rows(n, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t at = first; at < last; at += BLOCK) {
      const int count = static_cast<int>(std::min<int64_t>(BLOCK, last - at));
      const auto block = per_coordinate ? grid_block<true> : grid_block<false>;
      block(positions + 3 * at, count, center, *radius, points + 3 * at, inside + at);
    }
  });
}

// Gradient by the logits of density = scale * e^logit * inside, whose slope is kept within e^-15 and e^15: logits lie
// `logits_step` apart, all else is (n).
void spinnerf_density_backward(const float* grad, const float* logits, int64_t logits_step, const float* density,
                               const float* inside, int64_t n, float scale, float* out, int threads) {
  const float least = scale * std::exp(-15.0f), most = scale * std::exp(15.0f);
  for_rows(n, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const float logit = logits[i * logits_step];
      const float slope = logit < -15.0f ? least * inside[i] : logit > 15.0f ? most * inside[i] : density[i];
      out[i] = grad[i] * slope;
    }
  });
}
}
