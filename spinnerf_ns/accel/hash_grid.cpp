// The multi-resolution hash grid of Instant-NGP (Mueller et al. 2022) exactly as nerfstudio's torch path defines it:
// corner k of the cell is (ceil or floor of each scaled coordinate), hashed by x ^ y*2654435761 ^ z*805459861 modulo the
// table size. That modulo is a power of two, so 32-bit wrap-around arithmetic gives the same index as torch's 64-bit one,
// for negative corners too.
//
// Plain C symbols and no torch header: it compiles in seconds and does not depend on torch's ABI. Build without
// -ffast-math: the forward repeats torch's operations in torch's order and is equal to it bit by bit.
//
// Arrays are contiguous float32: x (n, 3), table (levels * table_size, features), out and grad_out (n, levels * features).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "parallel.hpp"

namespace {

constexpr int BLOCK = 128;  // points handled at once: their indices and weights stay in the first-level cache
constexpr uint32_t PRIME_Y = 2654435761u, PRIME_Z = 805459861u;

// A block of points of one level: table rows of the eight corners and the position inside the cell. Corners are in
// torch's order: 0 ccc, 1 cfc, 2 ffc, 3 fcc, 4 ccf, 5 cff, 6 fff, 7 fcf (x, y, z; c = ceil, f = floor).
struct Cells {
  alignas(64) uint32_t row[8][BLOCK];
  alignas(64) float offset[3][BLOCK];
};

inline void locate(const float* x, int count, float scale, uint32_t row_mask, Cells& cells) {
  alignas(64) uint32_t low[3][BLOCK], high[3][BLOCK];
  constexpr uint32_t primes[3] = {1u, PRIME_Y, PRIME_Z};
  for (int axis = 0; axis < 3; ++axis) {
    for (int i = 0; i < count; ++i) {
      const float scaled = x[3 * i + axis] * scale;
      const int32_t below = static_cast<int32_t>(std::floor(scaled));
      const int32_t above = static_cast<int32_t>(std::ceil(scaled));
      cells.offset[axis][i] = scaled - static_cast<float>(below);
      low[axis][i] = static_cast<uint32_t>(below) * primes[axis];
      high[axis][i] = static_cast<uint32_t>(above) * primes[axis];
    }
  }
  for (int i = 0; i < count; ++i) {
    const uint32_t cc = high[1][i] ^ high[2][i], fc = low[1][i] ^ high[2][i];
    const uint32_t cf = high[1][i] ^ low[2][i], ff = low[1][i] ^ low[2][i];
    cells.row[0][i] = (high[0][i] ^ cc) & row_mask;
    cells.row[1][i] = (high[0][i] ^ fc) & row_mask;
    cells.row[2][i] = (low[0][i] ^ fc) & row_mask;
    cells.row[3][i] = (low[0][i] ^ cc) & row_mask;
    cells.row[4][i] = (high[0][i] ^ cf) & row_mask;
    cells.row[5][i] = (high[0][i] ^ ff) & row_mask;
    cells.row[6][i] = (low[0][i] ^ ff) & row_mask;
    cells.row[7][i] = (low[0][i] ^ cf) & row_mask;
  }
}

inline float mix(float at_ceil, float at_floor, float offset) { return at_ceil * offset + at_floor * (1.0f - offset); }

// Trilinear interpolation in torch's order of operations; v are the eight corners of one feature.
inline float interpolate(const float v[8], float ox, float oy, float oz) {
  const float upper = mix(mix(v[0], v[3], ox), mix(v[1], v[2], ox), oy);
  const float lower = mix(mix(v[4], v[7], ox), mix(v[5], v[6], ox), oy);
  return mix(upper, lower, oz);
}

// F is the number of features known to the compiler; 0 reads it from `features`.
template <int F>
void forward_block(const Cells& cells, int count, const float* table, int features, float* out, int64_t stride) {
  const int width = F ? F : features;
  for (int i = 0; i < count; ++i) {
    const float ox = cells.offset[0][i], oy = cells.offset[1][i], oz = cells.offset[2][i];
    const float* corner[8];
    for (int k = 0; k < 8; ++k) corner[k] = table + static_cast<int64_t>(cells.row[k][i]) * width;
    for (int f = 0; f < width; ++f) {
      float v[8];
      for (int k = 0; k < 8; ++k) v[k] = corner[k][f];
      out[i * stride + f] = interpolate(v, ox, oy, oz);
    }
  }
}

inline void corner_weights(const Cells& cells, int count, float weight[8][BLOCK]) {
  for (int i = 0; i < count; ++i) {
    const float ox = cells.offset[0][i], oy = cells.offset[1][i], oz = cells.offset[2][i];
    const float px = 1.0f - ox, py = 1.0f - oy, pz = 1.0f - oz;
    const float cc = oz * oy, fc = oz * py, cf = pz * oy, ff = pz * py;
    weight[0][i] = cc * ox;
    weight[1][i] = fc * ox;
    weight[2][i] = fc * px;
    weight[3][i] = cc * px;
    weight[4][i] = cf * ox;
    weight[5][i] = ff * ox;
    weight[6][i] = ff * px;
    weight[7][i] = cf * px;
  }
}

// Adds a block's gradient to the rows [first, last) of one level's table; grad is (count, width), contiguous.
template <int F>
void scatter_block(const Cells& cells, const float weight[8][BLOCK], int count, const float* grad, int features,
                   bool all_rows, uint32_t first, uint32_t last, float* grad_table) {
  const int width = F ? F : features;
  if (all_rows) {
    for (int i = 0; i < count; ++i) {
      for (int k = 0; k < 8; ++k) {
        float* target = grad_table + static_cast<int64_t>(cells.row[k][i]) * width;
        for (int f = 0; f < width; ++f) target[f] += grad[i * width + f] * weight[k][i];
      }
    }
    return;
  }
  uint16_t chosen[8 * BLOCK];
  int total = 0;
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < 8; ++k) {  // without a branch: half of them would be mispredicted
      chosen[total] = static_cast<uint16_t>(i * 8 + k);
      total += (cells.row[k][i] - first) < (last - first);
    }
  }
  for (int c = 0; c < total; ++c) {
    const int i = chosen[c] >> 3, k = chosen[c] & 7;
    float* target = grad_table + static_cast<int64_t>(cells.row[k][i]) * width;
    for (int f = 0; f < width; ++f) target[f] += grad[i * width + f] * weight[k][i];
  }
}

template <int F>
void grad_x_block(const Cells& cells, int count, const float* table, float scale, const float* grad, int64_t stride,
                  int features, float* grad_x) {
  const int width = F ? F : features;
  for (int i = 0; i < count; ++i) {
    const float ox = cells.offset[0][i], oy = cells.offset[1][i], oz = cells.offset[2][i];
    const float* corner[8];
    for (int k = 0; k < 8; ++k) corner[k] = table + static_cast<int64_t>(cells.row[k][i]) * width;
    float gx = 0.0f, gy = 0.0f, gz = 0.0f;
    for (int f = 0; f < width; ++f) {
      float v[8];
      for (int k = 0; k < 8; ++k) v[k] = corner[k][f];
      const float g = grad[i * stride + f];
      const float upper_c = mix(v[0], v[3], ox), upper_f = mix(v[1], v[2], ox);
      const float lower_c = mix(v[4], v[7], ox), lower_f = mix(v[5], v[6], ox);
      gx += g * mix(mix(v[0] - v[3], v[1] - v[2], oy), mix(v[4] - v[7], v[5] - v[6], oy), oz);
      gy += g * mix(upper_c - upper_f, lower_c - lower_f, oz);
      gz += g * (mix(upper_c, upper_f, oy) - mix(lower_c, lower_f, oy));
    }
    grad_x[3 * i] += gx * scale;
    grad_x[3 * i + 1] += gy * scale;
    grad_x[3 * i + 2] += gz * scale;
  }
}

struct Grid {
  int levels, features;
  int64_t table_size;
  const float* scalings;
  int64_t width() const { return static_cast<int64_t>(levels) * features; }
  uint32_t row_mask() const { return static_cast<uint32_t>(table_size - 1); }
  int64_t level_floats() const { return table_size * features; }
};

constexpr int64_t CHUNK = 16384;  // points a forward task walks level by level: a level's table is reused while cached

template <int F>
void forward(const Grid& grid, const float* x, int64_t n, const float* table, float* out, int threads) {
  prefer_huge_pages(out, sizeof(float) * n * grid.width());
  const int64_t chunk = std::min<int64_t>(CHUNK, std::max<int64_t>(BLOCK, n / (4 * threads) / BLOCK * BLOCK));
  parallel_for((n + chunk - 1) / chunk, threads, [&](int64_t task) {
    const int64_t begin = task * chunk, end = std::min(n, begin + chunk);
    Cells cells;
    for (int level = 0; level < grid.levels; ++level) {
      for (int64_t at = begin; at < end; at += BLOCK) {
        const int count = static_cast<int>(std::min<int64_t>(BLOCK, end - at));
        locate(x + 3 * at, count, grid.scalings[level], grid.row_mask(), cells);
        forward_block<F>(cells, count, table + level * grid.level_floats(), grid.features,
                         out + at * grid.width() + level * grid.features, grid.width());
      }
    }
  });
}

template <int F>
bool backward_table(const Grid& grid, const float* x, int64_t n, const float* grad_out, float* grad_table, int threads) {
  // Every row of the gradient is owned by one task, which adds its points in their order: no atomics, and the same bits
  // whatever the number of threads. Few levels on many threads are cut further, by rows.
  int64_t cuts = 1;
  while (threads > 1 && grid.levels * cuts < 2 * threads && cuts < grid.table_size && cuts < 64) cuts *= 2;
  const int width = F ? F : grid.features;
  // One level's gradients lie far apart in grad_out; gathered once, each level reads its own contiguously.
  float* by_level = static_cast<float*>(std::malloc(sizeof(float) * static_cast<size_t>(n) * grid.width()));
  if (!by_level) return false;
  prefer_huge_pages(by_level, sizeof(float) * n * grid.width());
  prefer_huge_pages(grad_table, sizeof(float) * grid.levels * grid.level_floats());
  parallel_for((n + CHUNK - 1) / CHUNK, threads, [&](int64_t task) {
    const int64_t begin = task * CHUNK, end = std::min(n, begin + CHUNK);
    for (int64_t sub = begin; sub < end; sub += BLOCK) {
      const int64_t sub_end = std::min<int64_t>(end, sub + BLOCK);
      for (int level = 0; level < grid.levels; ++level) {
        float* target = by_level + level * n * width;
        for (int64_t i = sub; i < sub_end; ++i)
          for (int f = 0; f < width; ++f) target[i * width + f] = grad_out[i * grid.width() + level * width + f];
      }
    }
  });
  parallel_for(grid.levels * cuts, threads, [&](int64_t task) {
    const int level = static_cast<int>(task / cuts);
    const int64_t rows = grid.table_size / cuts, first = task % cuts * rows;
    float* target = grad_table + level * grid.level_floats();
    std::memset(target + first * width, 0, sizeof(float) * rows * width);
    Cells cells;
    alignas(64) float weight[8][BLOCK];
    for (int64_t at = 0; at < n; at += BLOCK) {
      const int count = static_cast<int>(std::min<int64_t>(BLOCK, n - at));
      locate(x + 3 * at, count, grid.scalings[level], grid.row_mask(), cells);
      corner_weights(cells, count, weight);
      scatter_block<F>(cells, weight, count, by_level + (level * n + at) * width, grid.features, cuts == 1,
                       static_cast<uint32_t>(first), static_cast<uint32_t>(first + rows), target);
    }
  });
  std::free(by_level);
  return true;
}

template <int F>
void backward_x(const Grid& grid, const float* x, int64_t n, const float* table, const float* grad_out, float* grad_x,
                int threads) {
  const int64_t chunk = std::min<int64_t>(CHUNK, std::max<int64_t>(BLOCK, n / (4 * threads) / BLOCK * BLOCK));
  parallel_for((n + chunk - 1) / chunk, threads, [&](int64_t task) {
    const int64_t begin = task * chunk, end = std::min(n, begin + chunk);
    std::memset(grad_x + 3 * begin, 0, sizeof(float) * 3 * (end - begin));
    Cells cells;
    for (int level = 0; level < grid.levels; ++level) {
      for (int64_t at = begin; at < end; at += BLOCK) {
        const int count = static_cast<int>(std::min<int64_t>(BLOCK, end - at));
        locate(x + 3 * at, count, grid.scalings[level], grid.row_mask(), cells);
        grad_x_block<F>(cells, count, table + level * grid.level_floats(), grid.scalings[level],
                        grad_out + at * grid.width() + level * grid.features, grid.width(), grid.features, grad_x + 3 * at);
      }
    }
  });
}

}  // namespace

#define FOR_FEATURES(function, ...)                  \
  switch (features) {                                \
    case 1: function<1>(__VA_ARGS__); break;         \
    case 2: function<2>(__VA_ARGS__); break;         \
    case 4: function<4>(__VA_ARGS__); break;         \
    case 8: function<8>(__VA_ARGS__); break;         \
    default: function<0>(__VA_ARGS__); break;        \
  }

extern "C" {

int spinnerf_hash_grid_version() { return 1; }

// Returns 0, or 1 where memory ran out.
int spinnerf_hash_grid_forward(const float* x, int64_t n, const float* table, int levels, int features, int64_t table_size,
                               const float* scalings, float* out, int threads) {
  const Grid grid{levels, features, table_size, scalings};
  FOR_FEATURES(forward, grid, x, n, table, out, threads)
  return 0;
}

// grad_table (levels * table_size, features) and grad_x (n, 3) are overwritten; either may be null.
int spinnerf_hash_grid_backward(const float* x, int64_t n, const float* table, int levels, int features, int64_t table_size,
                                const float* scalings, const float* grad_out, float* grad_table, float* grad_x, int threads) {
  const Grid grid{levels, features, table_size, scalings};
  bool done = true;
  if (grad_table) FOR_FEATURES(done = backward_table, grid, x, n, grad_out, grad_table, threads)
  if (grad_x) FOR_FEATURES(backward_x, grid, x, n, table, grad_out, grad_x, threads)
  return done ? 0 : 1;
}
}
