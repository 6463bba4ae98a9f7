// The loops of stereo/matching.py over pixels and planes: costs of planes, their aggregation, and slanted patches.
//
// A plane in space is a linear function of the pixel in inverse depth. So a neighbour shows the pixel (x, y), at inverse depth w, at
// (A (x, y, 1) + w b), divided by its third component: twelve numbers for a neighbour, three for a slanted patch.
// Pixels are counted from the first one's centre. Costs are 1 - NCC, cut at 1; what a neighbour does not show costs 1 as well.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../accel/parallel.hpp"

namespace {

constexpr int64_t kBand = 16;       // rows per task of the sweep
constexpr int64_t kPlanes = 8;      // planes at a time: a pixel's costs lie side by side in the volume
constexpr int64_t kColumns = 16;    // columns per task of the aggregation
constexpr int64_t kMost = 16;       // neighbours
constexpr int64_t kSamples = 64;    // of a slanted patch
constexpr float kNearest = 1e-6f;   // third components below: behind the neighbour

// The same in plane_sweep.py.
struct Photos {
  int64_t height, width, count;
  const float* reference;       // (height, width) grey
  const float* const* greys;    // (count,) each (heights, widths)
  const int64_t *heights, *widths;
  const float* poses;           // (count, 12): A by rows, b
  int64_t best;                 // so many of the neighbours count, the best ones
  float noise;                  // variance of grey that is no texture
};

// Where a neighbour shows `count` pixels, and what: bilinear; `shown` is 1 or 0.
struct Sampler {
  const float *grey, *pose;
  int32_t height, width;

  Sampler(const Photos& p, int64_t k)
      : grey(p.greys[k]), pose(p.poses + 12 * k), height(static_cast<int32_t>(p.heights[k])), width(static_cast<int32_t>(p.widths[k])) {}

  // hx, hy, hz: (count,) homogeneous pixels.
  void look(int64_t count, const float* hx, const float* hy, const float* hz, float* __restrict values, float* __restrict shown) const {
    const float right = static_cast<float>(width - 1), bottom = static_cast<float>(height - 1);
    for (int64_t i = 0; i < count; ++i) {
      const float inverse = 1.0f / std::max(hz[i], kNearest);
      const float u = hx[i] * inverse, v = hy[i] * inverse;
      const bool inside = (hz[i] > kNearest) & (u >= 0.0f) & (u <= right) & (v >= 0.0f) & (v <= bottom);
      const float cu = std::min(std::max(u, 0.0f), right), cv = std::min(std::max(v, 0.0f), bottom);
      const int32_t x = std::min(static_cast<int32_t>(cu), width - 2), y = std::min(static_cast<int32_t>(cv), height - 2);
      const float fx = cu - static_cast<float>(x), fy = cv - static_cast<float>(y);
      const int32_t at = y * width + x;
      const float top = grey[at] + fx * (grey[at + 1] - grey[at]);
      const float low = grey[at + width] + fx * (grey[at + width + 1] - grey[at + width]);
      values[i] = top + fy * (low - top);
      shown[i] = inside ? 1.0f : 0.0f;
    }
  }
};

float cost_of(float covariance, float variance, float other, float noise) {
  const float ncc = covariance / std::sqrt((std::max(variance, 0.0f) + noise) * (std::max(other, 0.0f) + noise));
  return std::min(1.0f, 1.0f - ncc);
}

// Sums over a window of 2r + 1 along both axes, of rows of `width` with r copies of the end at both ends.
class Box {
 public:
  Box(int64_t rows, int64_t width, int64_t radius)
      : rows_(rows), width_(width), radius_(radius), across_(rows * width), padded_(width + 2 * radius) {}

  // values: (rows, width); sums: (rows - 2r, width).
  void sum(const float* values, float* sums) {
    const int64_t r = radius_;
    for (int64_t y = 0; y < rows_; ++y) {
      const float* row = values + y * width_;
      std::fill_n(padded_.data(), r, row[0]);
      std::memcpy(padded_.data() + r, row, sizeof(float) * static_cast<size_t>(width_));
      std::fill_n(padded_.data() + r + width_, r, row[width_ - 1]);
      add(padded_.data(), 1, across_.data() + y * width_);
    }
    for (int64_t y = 0; y < rows_ - 2 * r; ++y) add(across_.data() + y * width_, width_, sums + y * width_);
  }

 private:
  void add(const float* from, int64_t stride, float* __restrict to) const {
    std::memcpy(to, from, sizeof(float) * static_cast<size_t>(width_));
    for (int64_t i = 1; i <= 2 * radius_; ++i) {
      const float* next = from + i * stride;
      for (int64_t x = 0; x < width_; ++x) to[x] += next[x];
    }
  }
  int64_t rows_, width_, radius_;
  std::vector<float> across_, padded_;
};

// Rows [start, start + rows) of the cost volume.
void sweep_band(const Photos& p, int64_t planes, const float* inverses, int64_t radius, int64_t start, int64_t rows, float* volume) {
  const int64_t width = p.width, halo = rows + 2 * radius, size = rows * width, whole = halo * width;
  std::vector<float> grey(whole), product(whole), values(whole), shown(whole), hx(width), hy(width), hz(width);
  std::vector<float> mean(size), variance(size), sum(size), squares(size), cross(size), kept(p.best * size), group(kPlanes * size);
  Box box(halo, width, radius);
  const float share = 1.0f / static_cast<float>((2 * radius + 1) * (2 * radius + 1));
  auto row_of = [&](int64_t y) { return std::min(std::max<int64_t>(start + y - radius, 0), p.height - 1); };
  for (int64_t y = 0; y < halo; ++y)
    std::memcpy(grey.data() + y * width, p.reference + row_of(y) * width, sizeof(float) * static_cast<size_t>(width));
  for (int64_t i = 0; i < whole; ++i) product[i] = grey[i] * grey[i];
  box.sum(grey.data(), mean.data());
  box.sum(product.data(), variance.data());
  for (int64_t i = 0; i < size; ++i) {
    mean[i] *= share;
    variance[i] = variance[i] * share - mean[i] * mean[i];
  }
  for (int64_t first = 0; first < planes; first += kPlanes) {
    const int64_t here = std::min(kPlanes, planes - first);
    for (int64_t plane = 0; plane < here; ++plane) {
      const float w = inverses[first + plane];
      std::fill(kept.begin(), kept.end(), 1.0f);
      for (int64_t k = 0; k < p.count; ++k) {
        const Sampler neighbour(p, k);
        const float* a = neighbour.pose;
        for (int64_t y = 0; y < halo; ++y) {
          const float row = static_cast<float>(row_of(y));
          const float ox = a[1] * row + a[2] + w * a[9], oy = a[4] * row + a[5] + w * a[10], oz = a[7] * row + a[8] + w * a[11];
          for (int64_t x = 0; x < width; ++x) {
            const float column = static_cast<float>(x);
            hx[x] = a[0] * column + ox;
            hy[x] = a[3] * column + oy;
            hz[x] = a[6] * column + oz;
          }
          neighbour.look(width, hx.data(), hy.data(), hz.data(), values.data() + y * width, shown.data() + y * width);
        }
        box.sum(values.data(), sum.data());
        for (int64_t i = 0; i < whole; ++i) product[i] = grey[i] * values[i];
        box.sum(product.data(), cross.data());
        for (int64_t i = 0; i < whole; ++i) product[i] = values[i] * values[i];
        box.sum(product.data(), squares.data());
        const float* seen = shown.data() + radius * width;
        for (int64_t i = 0; i < size; ++i) {
          const float other = sum[i] * share;
          const float cost = cost_of(cross[i] * share - mean[i] * other, variance[i], squares[i] * share - other * other, p.noise);
          sum[i] = seen[i] > 0.0f ? cost : 1.0f;
        }
        for (int64_t rank = 0; rank < p.best; ++rank) {
          float* __restrict least = kept.data() + rank * size;
          float* __restrict cost = sum.data();
          for (int64_t i = 0; i < size; ++i) {
            const float low = std::min(least[i], cost[i]);
            cost[i] = std::max(least[i], cost[i]);
            least[i] = low;
          }
        }
      }
      float* __restrict total = group.data() + plane * size;
      std::memcpy(total, kept.data(), sizeof(float) * static_cast<size_t>(size));
      for (int64_t rank = 1; rank < p.best; ++rank)
        for (int64_t i = 0; i < size; ++i) total[i] += kept[rank * size + i];
      for (int64_t i = 0; i < size; ++i) total[i] /= static_cast<float>(p.best);
    }
    float* out = volume + start * width * planes + first;
    for (int64_t i = 0; i < size; ++i)
      for (int64_t plane = 0; plane < here; ++plane) out[i * planes + plane] = group[plane * size + i];
  }
}

// A step of semi-global matching: `path` becomes what the cheapest path to this pixel costs, less the least of the pixel before.
void step(int64_t planes, const float* cost, float small, float large, float* __restrict path, float* __restrict next, float* __restrict sum) {
  float least = path[1];
  for (int64_t p = 2; p <= planes; ++p) least = std::min(least, path[p]);
  const float jump = least + large;
  for (int64_t p = 1; p <= planes; ++p) {  // path has a place more at both ends
    const float beside = std::min(path[p - 1], path[p + 1]) + small;
    next[p] = cost[p - 1] + (std::min(std::min(path[p], beside), jump) - least);
  }
  for (int64_t p = 1; p <= planes; ++p) sum[p - 1] += next[p];
}

struct Path {
  std::vector<float> now, next;
  explicit Path(int64_t planes) : now(planes + 2, 1e9f), next(planes + 2, 1e9f) {}
  void begin(int64_t planes, const float* cost, float* sum) {
    for (int64_t p = 0; p < planes; ++p) now[p + 1] = cost[p], sum[p] += cost[p];
  }
  void go(int64_t planes, const float* cost, float small, float large, float* sum) {
    step(planes, cost, small, large, now.data(), next.data(), sum);
    now.swap(next);
  }
};

float jump_cost(float here, float before, float large, float contrast, float small) {
  return std::max(large / (1.0f + std::abs(here - before) / contrast), small);
}

// The cost of a slanted patch around a pixel.
struct Patch {
  const Photos& p;
  int64_t samples;
  const float *dx, *dy;
  float weights[kSamples], mean, variance;
  float weighted[kSamples];  // weights times the reference's grey
  float x, y;

  Patch(const Photos& photos, int64_t n, const float* across, const float* down, const float* near, float contrast, int64_t row, int64_t column)
      : p(photos), samples(n), dx(across), dy(down), x(static_cast<float>(column)), y(static_cast<float>(row)) {
    const float center = p.reference[row * p.width + column];
    float total = 0.0f, sum = 0.0f, squares = 0.0f;
    for (int64_t i = 0; i < samples; ++i) {
      const int64_t cx = std::min(std::max<int64_t>(column + static_cast<int64_t>(dx[i]), 0), p.width - 1);
      const int64_t cy = std::min(std::max<int64_t>(row + static_cast<int64_t>(dy[i]), 0), p.height - 1);
      const float grey = p.reference[cy * p.width + cx], apart = (grey - center) / contrast;
      const bool outside = static_cast<float>(cx) != x + dx[i] || static_cast<float>(cy) != y + dy[i];
      const float weight = outside ? 0.0f : near[i] / (1.0f + apart * apart);
      weights[i] = weight;
      weighted[i] = weight * grey;
      total += weight, sum += weight * grey, squares += weight * grey * grey;
    }
    for (int64_t i = 0; i < samples; ++i) weights[i] /= total, weighted[i] /= total;
    mean = sum / total;
    variance = squares / total - mean * mean;
  }

  // Of one neighbour.
  float cost_in(int64_t k, float w, float gx, float gy) const {
    float hx[kSamples], hy[kSamples], hz[kSamples], values[kSamples], shown[kSamples];
    const Sampler neighbour(p, k);
    const float* a = neighbour.pose;
    const float ox = a[0] * x + a[1] * y + a[2], oy = a[3] * x + a[4] * y + a[5], oz = a[6] * x + a[7] * y + a[8];
    const float cz = oz + w * a[11], cu = (ox + w * a[9]) / cz, cv = (oy + w * a[10]) / cz;
    if (!(cz > kNearest) || !(cu >= 0.0f) || !(cu <= static_cast<float>(neighbour.width - 1)) || !(cv >= 0.0f) ||
        !(cv <= static_cast<float>(neighbour.height - 1)))
      return 1.0f;
    for (int64_t i = 0; i < samples; ++i) {
      const float inverse = w + gx * dx[i] + gy * dy[i];
      hx[i] = ox + a[0] * dx[i] + a[1] * dy[i] + inverse * a[9];
      hy[i] = oy + a[3] * dx[i] + a[4] * dy[i] + inverse * a[10];
      hz[i] = oz + a[6] * dx[i] + a[7] * dy[i] + inverse * a[11];
    }
    neighbour.look(samples, hx, hy, hz, values, shown);
    float sums[3][8] = {};
    for (int64_t i = 0; i < samples; i += 8)  // samples: a multiple of 8, the last ones may weigh 0
      for (int64_t j = 0; j < 8; ++j) {
        const float value = values[i + j], part = weights[i + j] * value;
        sums[0][j] += part, sums[1][j] += part * value, sums[2][j] += weighted[i + j] * value;
      }
    float total[3] = {};
    for (int64_t n = 0; n < 3; ++n)
      for (int64_t j = 0; j < 8; ++j) total[n] += sums[n][j];
    return cost_of(total[2] - mean * total[0], variance, total[1] - total[0] * total[0], p.noise);
  }

  // The mean of the best neighbours, and which they are: the first ones of equal cost.
  float cost(float w, float gx, float gy, int64_t* which) const {
    float costs[kMost], sum = 0.0f;
    for (int64_t k = 0; k < p.count; ++k) costs[k] = cost_in(k, w, gx, gy);
    const int64_t chosen = std::min(p.best, p.count);
    for (int64_t i = 0; i < chosen; ++i) {
      which[i] = std::min_element(costs, costs + p.count) - costs;
      sum += costs[which[i]];
      costs[which[i]] = 3.0f;  // more than any
    }
    return (sum + static_cast<float>(p.best - chosen)) / static_cast<float>(p.best);
  }

  // The mean of given neighbours.
  float cost_of_these(float w, float gx, float gy, const int64_t* which) const {
    const int64_t chosen = std::min(p.best, p.count);
    float sum = static_cast<float>(p.best - chosen);
    for (int64_t i = 0; i < chosen; ++i) sum += cost_in(which[i], w, gx, gy);
    return sum / static_cast<float>(p.best);
  }
};

}  // namespace

extern "C" {

// volume: (height, width, planes).
void spinnerf_stereo_sweep(const Photos* p, int64_t planes, const float* inverses, int64_t radius, float* volume, int threads) {
  prefer_huge_pages(volume, p->height * p->width * planes * static_cast<int64_t>(sizeof(float)));
  parallel_for((p->height + kBand - 1) / kBand, threads, [&](int64_t band) {
    const int64_t start = band * kBand;
    sweep_band(*p, planes, inverses, radius, start, std::min(kBand, p->height - start), volume);
  });
}

// Semi-global matching in four directions. sums: (height, width, planes), zeros before; place, least: (height, width) the best plane,
// between planes, and the volume's cost there; second: the sum of the best plane that is no neighbour of the best, over the best's.
void spinnerf_stereo_aggregate(int64_t height, int64_t width, int64_t planes, const float* volume, const float* guide, float small,
                               float large, float contrast, float* sums, float* place, float* least, int threads) {
  prefer_huge_pages(sums, height * width * planes * static_cast<int64_t>(sizeof(float)));
  parallel_for(height, threads, [&](int64_t y) {
    const float *cost = volume + y * width * planes, *grey = guide + y * width;
    float* sum = sums + y * width * planes;
    Path path(planes);
    path.begin(planes, cost, sum);
    for (int64_t x = 1; x < width; ++x)
      path.go(planes, cost + x * planes, small, jump_cost(grey[x], grey[x - 1], large, contrast, small), sum + x * planes);
    path.begin(planes, cost + (width - 1) * planes, sum + (width - 1) * planes);
    for (int64_t x = width - 2; x >= 0; --x)
      path.go(planes, cost + x * planes, small, jump_cost(grey[x], grey[x + 1], large, contrast, small), sum + x * planes);
  });
  parallel_for((width + kColumns - 1) / kColumns, threads, [&](int64_t block) {
    const int64_t left = block * kColumns, columns = std::min(kColumns, width - left);
    std::vector<Path> paths(columns, Path(planes));
    for (int64_t way = 0; way < 2; ++way)
      for (int64_t i = 0; i < height; ++i) {
        const int64_t y = way ? height - 1 - i : i, before = way ? y + 1 : y - 1;
        for (int64_t c = 0; c < columns; ++c) {
          const int64_t at = y * width + left + c;
          const float* cost = volume + at * planes;
          float* sum = sums + at * planes;
          if (i == 0) {
            paths[c].begin(planes, cost, sum);
          } else {
            paths[c].go(planes, cost, small, jump_cost(guide[at], guide[before * width + left + c], large, contrast, small), sum);
          }
          if (way == 0) continue;
          int64_t best = 0;
          for (int64_t p = 1; p < planes; ++p)
            if (sum[p] < sum[best]) best = p;
          float between = 0.0f;
          if (best > 0 && best < planes - 1) {
            const float before_it = sum[best - 1] - sum[best], after = sum[best + 1] - sum[best];
            between = 0.5f * (before_it - after) / std::max(before_it + after, 1e-6f);
          }
          place[at] = static_cast<float>(best) + between;
          least[at] = cost[best];
        }
      }
  });
}

// One round of slanted patches. planes: (height, width, 3) inverse depth and its slopes along x and y, as before; out: after; costs:
// (height, width) of out. A pixel tries its neighbours' planes at the given offsets, then inverse depths `reach` to both sides (with a
// parabola through the three costs), then slopes `tilt` to both sides; the last two in the neighbours that were best before. anchor: (height, width) inverse depth that a patch leaves
// at the price of `pull` per `reach`, up to twice that.
void spinnerf_stereo_refine(const Photos* p, int64_t samples, const float* dx, const float* dy, const float* near, float contrast,
                            int64_t offsets, const int64_t* down, const int64_t* right, float reach, float tilt, float pull, float unit,
                            const float* anchor, const float* planes, float* out, float* costs, int threads) {
  parallel_for(p->height, threads, [&](int64_t y) {
    for (int64_t x = 0; x < p->width; ++x) {
      const int64_t at = y * p->width + x;
      const Patch patch(*p, samples, dx, dy, near, contrast, y, x);
      const float wanted = anchor[at];
      float w = planes[3 * at], gx = planes[3 * at + 1], gy = planes[3 * at + 2];
      if (patch.variance < p->noise) {  // even: nothing to measure
        out[3 * at] = w, out[3 * at + 1] = gx, out[3 * at + 2] = gy;
        costs[at] = 1.0f;
        continue;
      }
      auto leaving = [&](float a) { return pull * std::min(std::abs(a - wanted) / unit, 2.0f); };
      int64_t which[kMost] = {}, others[kMost] = {};
      float best = w > 0.0f ? patch.cost(w, gx, gy, which) + leaving(w) : 3.0f;
      for (int64_t n = 0; n < offsets; ++n) {
        const int64_t ny = y + down[n], nx = x + right[n];
        if (ny < 0 || ny >= p->height || nx < 0 || nx >= p->width) continue;
        const float* other = planes + 3 * (ny * p->width + nx);
        const float ow = other[0] - other[1] * static_cast<float>(right[n]) - other[2] * static_cast<float>(down[n]);
        if (!(ow > 0.0f)) continue;
        if (std::abs(ow - w) < 0.2f * reach && std::abs(other[1] - gx) < 2.0f * tilt && std::abs(other[2] - gy) < 2.0f * tilt) continue;
        const float cost = patch.cost(ow, other[1], other[2], others) + leaving(ow);
        if (cost < best) best = cost, w = ow, gx = other[1], gy = other[2], std::copy(others, others + p->best, which);
      }
      auto price = [&](float a, float b, float c) { return a > 0.0f ? patch.cost_of_these(a, b, c, which) + leaving(a) : 3.0f; };
      const float low = price(w - reach, gx, gy), high = price(w + reach, gx, gy);
      const float bend = low + high - 2.0f * best;
      if (low < best || high < best) {
        w = low < high ? w - reach : w + reach;
        best = std::min(low, high);
      } else if (bend > 1e-6f) {
        const float between = w + 0.5f * reach * (low - high) / bend, cost = price(between, gx, gy);
        if (cost < best) best = cost, w = between;
      }
      if (tilt > 0.0f)
        for (int64_t n = 0; n < 4; ++n) {
          const float sign = n % 2 ? -tilt : tilt, tx = n < 2 ? gx + sign : gx, ty = n < 2 ? gy : gy + sign;
          const float cost = price(w, tx, ty);
          if (cost < best) best = cost, gx = tx, gy = ty;
        }
      out[3 * at] = w, out[3 * at + 1] = gx, out[3 * at + 2] = gy;
      costs[at] = best;
    }
  });
}

}  // extern "C"
