// The steps of patch_field.py's search that look at every patch, a target at a time.
//
// numpy gathers whole patches into fresh arrays before it compares them. Here a target is compared where the picture lies, and
// no farther than until it is clear that the candidate costs more than the present source: sums only grow, rounded ones too.
// Sums go pixel by pixel, channel by channel, as numpy's do, so that the same sources are chosen. Every target reads what the
// others had before the step, whatever the number of threads.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../../accel/parallel.hpp"

namespace {

constexpr int64_t kLanes = 8;      // pixels at a time
constexpr double kSurely = 1.001;  // times a sum of some thousand numbers >= 0 is more than any rounding makes of it
constexpr int64_t kTargets = 256;  // per task
constexpr int64_t kPixels = 64;    // per task
constexpr int64_t kTasks = 32;     // per thread, some 0.4 ms: a thread that a busy machine holds back is waited for longer

// The same in patch_kernel.py.
struct Field {
  int64_t height, width, patch, targets;
  const float* planes;                    // (3, height, width), and kLanes numbers beyond the end
  const uint8_t* valid;                   // (height, width)
  const int64_t* number;                  // (height, width)
  const int64_t *rows, *columns;          // (targets,)
  const float* weights;                   // (targets, patch, patch): rows end in zeros up to a multiple of kLanes
  int64_t *source_rows, *source_columns;  // (targets,)
  float* cost;                            // (targets,)
  double nearby, vertical;                // the penalty of a source a diagonal away, and how much more vertical distance counts

  bool contains(int64_t row, int64_t column) const { return row >= 0 && row < height && column >= 0 && column < width; }
};

typedef float Lanes __attribute__((vector_size(4 * kLanes)));

Lanes load(const float* values) {
  Lanes lanes;
  std::memcpy(&lanes, values, sizeof lanes);
  return lanes;
}

int64_t padded(int64_t patch) { return (patch + kLanes - 1) / kLanes * kLanes; }

// A target and a source side by side.
struct Pair {
  const Field& field;
  const float *wanted, *shown, *weights;  // of the patches' first pixels
  double penalty;

  Pair(const Field& f, int64_t target, int64_t row, int64_t column)
      : field(f), weights(f.weights + target * f.patch * padded(f.patch)) {
    const int64_t half = f.patch / 2;
    wanted = f.planes + (f.rows[target] - half) * f.width + f.columns[target] - half;
    shown = f.planes + (row - half) * f.width + column - half;
    const double down = static_cast<double>(row - f.rows[target]), right = static_cast<double>(column - f.columns[target]);
    const double far = f.vertical * (down * down) + right * right;
    penalty = f.nearby * far / static_cast<double>(f.height * f.height + f.width * f.width);
  }

  // What some pixels of a row differ in one channel: weighted squares.
  Lanes difference(int64_t y, int64_t x, int64_t channel) const {
    const int64_t at = channel * field.height * field.width + y * field.width + x;
    const Lanes apart = load(shown + at) - load(wanted + at);
    return apart * apart * load(weights + y * padded(field.patch) + x);
  }

  // Whether the source costs `most` or more, however its sum is rounded; summed in any order, up to where that is clear.
  bool costs_more(float most) const {
    const float room = static_cast<float>((most - penalty) * kSurely);
    Lanes sums = {};
    for (int64_t y = 0; y < field.patch; ++y) {
      for (int64_t x = 0; x < field.patch; x += kLanes)
        sums += difference(y, x, 0) + difference(y, x, 1) + difference(y, x, 2);
      const float sum = ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
      if (sum >= room) return true;
    }
    return false;
  }

  float cost() const {
    float sum = 0.0f;
    for (int64_t y = 0; y < field.patch; ++y)
      for (int64_t x = 0; x < field.patch; x += kLanes) {
        const Lanes parts[3] = {difference(y, x, 0), difference(y, x, 1), difference(y, x, 2)};
        for (int64_t i = 0; i < std::min(kLanes, field.patch - x); ++i)
          for (const Lanes& part : parts) sum += part[i];
      }
    return static_cast<float>(sum + penalty);
  }
};

// Takes a source where it is one and costs less than the present one.
void try_source(const Field& field, int64_t target, int64_t row, int64_t column) {
  float& cost = field.cost[target];
  if (row == field.source_rows[target] && column == field.source_columns[target] && !std::isinf(cost)) return;
  if (!field.contains(row, column) || !field.valid[row * field.width + column]) return;
  const Pair pair(field, target, row, column);
  if (pair.costs_more(cost)) return;
  const float found = pair.cost();
  if (found < cost) cost = found, field.source_rows[target] = row, field.source_columns[target] = column;
}

template <class Body>
void in_blocks(int64_t count, int64_t size, int threads, const Body& body) {
  const int64_t blocks = (count + size - 1) / size;
  parallel_for(blocks, static_cast<int>(std::min<int64_t>(threads, blocks / kTasks)), [&](int64_t block) {
    const int64_t end = std::min(count, (block + 1) * size);
    for (int64_t i = block * size; i < end; ++i) body(i);
  });
}

// The sum of numbers that come one by one, in numpy's order for up to 128 of them.
struct Sum {
  uint64_t in_parts, count, i = 0;
  float part[8] = {}, rest[8] = {};

  explicit Sum(uint64_t n) : in_parts(n / 8 * 8), count(n) {}

  void add(float value) {
    (i < in_parts ? part : rest)[i % 8] += value;
    ++i;
  }

  float total() const {
    float sum = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
    for (uint64_t k = 0; k < count - in_parts; ++k) sum += rest[k];
    return sum;
  }
};

// The mean of what the sources show at a pixel; see spinnerf_patch_vote.
void vote_on(
    const Field& field, const float* image, const int64_t* shift, const float* trust, int64_t row, int64_t column, float* mean) {
  const int64_t half = field.patch / 2, width = field.width;
  Sum weights(field.patch * field.patch);
  float votes[3] = {};
  const float* here = image + 3 * (row * width + column);
  for (int64_t y = row + half; y >= row - half; --y)
    for (int64_t x = column + half; x >= column - half; --x) {
      const int64_t target = field.contains(y, x) ? field.number[y * width + x] : -1;
      weights.add(target < 0 ? 0.0f : trust[target]);
      if (target < 0) continue;
      const float* shown = here + 3 * shift[target];
      for (int c = 0; c < 3; ++c) votes[c] += shown[c] * trust[target];
    }
  const float whole = weights.total();
  for (int c = 0; c < 3; ++c) mean[c] = votes[c] / whole;
}

}  // namespace

// `confidence`: (height, width). `weights`: as the field's, zeros before.
extern "C" void spinnerf_patch_weigh(const Field* field, const float* confidence, float* weights, int threads) {
  const int64_t patch = field->patch, step = padded(patch);
  in_blocks(field->targets, kTargets, threads, [&](int64_t target) {
    const float* first = confidence + (field->rows[target] - patch / 2) * field->width + field->columns[target] - patch / 2;
    Sum whole(patch * patch);
    for (int64_t y = 0; y < patch; ++y)
      for (int64_t x = 0; x < patch; ++x) whole.add(first[y * field->width + x]);
    const float most = std::max(whole.total(), 1e-6f);
    for (int64_t y = 0; y < patch; ++y)
      for (int64_t x = 0; x < patch; ++x) weights[(target * patch + y) * step + x] = first[y * field->width + x] / most;
  });
}

// `before_rows`, `before_columns`: (targets,) the sources before this step.
extern "C" void spinnerf_patch_propagate(
    const Field* field, const int64_t* before_rows, const int64_t* before_columns, int64_t down, int64_t right, int threads) {
  in_blocks(field->targets, kTargets, threads, [&](int64_t target) {
    const int64_t row = field->rows[target] + down, column = field->columns[target] + right;
    const int64_t neighbour = field->contains(row, column) ? field->number[row * field->width + column] : -1;
    if (neighbour >= 0) try_source(*field, target, before_rows[neighbour] - down, before_columns[neighbour] - right);
  });
}

// `drawn`: (2, targets) pixels down and to the right of the present sources, to be rounded.
extern "C" void spinnerf_patch_try_around(const Field* field, const double* drawn, int threads) {
  in_blocks(field->targets, kTargets, threads, [&](int64_t target) {
    const int64_t row = field->source_rows[target] + static_cast<int64_t>(std::nearbyint(drawn[target]));
    const int64_t column = field->source_columns[target] + static_cast<int64_t>(std::nearbyint(drawn[field->targets + target]));
    try_source(*field, target, row, column);
  });
}

// `image`: (height, width, 3). `shift`: (targets,) from a target's pixels to its source's in the flat picture. `trust`: (targets,)
// > 0, of each target's vote. `rows`, `columns`: (count,) pixels. `mean`: (count, 3).
extern "C" void spinnerf_patch_vote(
    const Field* field, const float* image, const int64_t* shift, const float* trust, int64_t count, const int64_t* rows,
    const int64_t* columns, float* mean, int threads) {
  in_blocks(count, kPixels, threads, [&](int64_t pixel) {
    vote_on(*field, image, shift, trust, rows[pixel], columns[pixel], mean + 3 * pixel);
  });
}
