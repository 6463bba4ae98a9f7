// Rendering weights along rays and the two losses on them (nerfacto's distortion and interlevel loss), a ray at a time.
//
// torch walks all rays once per elementary operation, with a fresh array for each, and compares every pair of samples. Here a
// ray's values stay in the cache, and along a ray edges ascend, so that running sums do what a matrix of pairs does:
//
//   weights     w_i = (1 - exp(-x_i)) exp(-sum_{j<i} x_j),  x_i = density_i * delta_i
//   distortion  sum_ij w_i w_j |u_i - u_j| + 1/3 sum_i w_i^2 (c_{i+1} - c_i),  u the bins' centres
//   interlevel  sum_i max(0, w_i - bound_i)^2 / (w_i + EPS),  bound_i the proposal's weight in all bins that bin i touches
//
// Arrays are float32 with consecutive samples of a ray; what has a stride has it between rays, in floats. Running sums are in
// double, as torch's cumsum is. Sums over rays go ray by ray, whatever the number of threads. Built with -ffp-contract=fast for
// fused multiply-add.
// flags: -ffp-contract=fast

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "parallel.hpp"

namespace {

constexpr int MAX_SAMPLES = 1024;  // a ray's values lie on the stack
constexpr int GROUP = 4;           // rays whose running sums overlap: each alone waits for its last addition
constexpr int64_t RAYS_PER_TASK = 32;

// exp for arrays, in arithmetic that compilers turn into vectors; within 2 units in the last place. What is below 2.5e-38 is 0;
// NaN and infinity as in std::exp.
inline float exp_of(float x) {
  constexpr float log2e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  const float bounded = x < -88.0f ? -88.0f : (x < 89.0f ? x : 89.0f);  // NaN becomes 89, and is put back below
  const float n = std::floor(bounded * log2e + 0.5f);
  const float r = (bounded - n * ln2_high) - n * ln2_low;  // |r| <= ln(2) / 2: a polynomial does for exp(r)
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  const float power = (p * r * r + r) + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 126) * (1 << 23);  // 2^(n - 1): 2^128 is no float
  float scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  const float result = power * scale * 2.0f;
  const float low = x < -86.6f ? 0.0f : result;
  const float high = x > 88.7228f ? std::numeric_limits<float>::infinity() : low;
  return x == x ? high : x;
}

// exp(-x_i), and transmittance exp(-sum_{j<i} x_j) before each sample, of up to GROUP rays behind one another.
struct Passage {
  alignas(64) float kept[GROUP * MAX_SAMPLES];
  alignas(64) float transmittance[GROUP * MAX_SAMPLES];

  void of(const float* density, const float* delta, int rays, int samples) {
    const int count = rays * samples;
    for (int i = 0; i < count; ++i) kept[i] = -(delta[i] * density[i]);
    double sum[GROUP] = {};
    for (int i = 0; i < samples; ++i)
      for (int ray = 0; ray < rays; ++ray) {
        const int at = ray * samples + i;
        transmittance[at] = static_cast<float>(sum[ray]);
        sum[ray] += kept[at];
      }
    for (int i = 0; i < count; ++i) {
      kept[i] = exp_of(kept[i]);
      transmittance[i] = exp_of(transmittance[i]);
    }
  }
};

// torch's nan_to_num.
inline float finite(float value) {
  constexpr float most = std::numeric_limits<float>::max();
  const float bounded = value > most ? most : (value < -most ? -most : value);
  return value == value ? bounded : 0.0f;
}

inline bool is_finite(float value) { return std::fabs(value) <= std::numeric_limits<float>::max(); }

void weights_of(const float* density, const float* delta, int rays, int samples, float* weights) {
  Passage passage;
  passage.of(density, delta, rays, samples);
  const int count = rays * samples;
  for (int i = 0; i < count; ++i) weights[i] = finite((1.0f - passage.kept[i]) * passage.transmittance[i]);
}

// Operations are those of torch's autograd, so that NaN spreads as it does there. Either gradient may be null.
void weights_gradient_of(const float* density, const float* delta, const float* grad, int rays, int samples, float* grad_density,
                         float* grad_delta) {
  Passage passage;
  passage.of(density, delta, rays, samples);
  alignas(64) float own[GROUP * MAX_SAMPLES], shading[GROUP * MAX_SAMPLES];
  const int count = rays * samples;
  for (int i = 0; i < count; ++i) {
    const float before = passage.transmittance[i], alpha = 1.0f - passage.kept[i];
    const float g = grad[i] * (is_finite(alpha * before) ? 1.0f : 0.0f);
    own[i] = g * before * passage.kept[i];
    shading[i] = g * alpha * before;
  }
  double behind[GROUP] = {};  // a sample takes light from all samples behind it
  for (int i = samples - 1; i >= 0; --i)
    for (int ray = 0; ray < rays; ++ray) {
      const int at = ray * samples + i;
      own[at] -= static_cast<float>(behind[ray]);
      behind[ray] += shading[at];
    }
  for (int i = 0; grad_density && i < count; ++i) grad_density[i] = own[i] * delta[i];
  for (int i = 0; grad_delta && i < count; ++i) grad_delta[i] = own[i] * density[i];
}

// From sums over gaps between neighbouring centres, all of one sign: no difference of large sums, however narrow the bins.
double distortion_of_ray(const float* edges, const float* weights, int samples, double scale, float* grad) {
  double apart[MAX_SAMPLES];  // sum_j w_j |u_i - u_j|
  const auto gap = [&](int i) { return (edges[i + 2] + edges[i + 1]) / 2 - (edges[i + 1] + edges[i]) / 2; };
  double passed = 0.0, before = 0.0;
  for (int i = 0; i < samples; ++i) {
    apart[i] = before;
    passed += weights[i];
    if (i + 1 < samples) before += gap(i) * passed;
  }
  double coming = 0.0, after = 0.0, loss = 0.0;
  for (int i = samples - 1; i >= 0; --i) {
    apart[i] += after;
    coming += weights[i];
    if (i > 0) after += gap(i - 1) * coming;
    const double inside = weights[i] * (edges[i + 1] - edges[i]) / 3.0;
    loss += weights[i] * (apart[i] + inside);
    if (grad) grad[i] = static_cast<float>(2.0 * scale * (apart[i] + inside));
  }
  return loss;
}

typedef float Places __attribute__((vector_size(64)));
typedef int32_t Counts __attribute__((vector_size(64)));
constexpr int LANES = 16;

// The bins that a ray's places lie in: the last edge <= a place begins its bin; places outside belong to the first or last bin.
// Comparing all with all, in vectors, takes less time than the branches of a walk.
void find_bins(const float* places, int count, const float* edges, int bins, int* found) {
  for (int start = 0; start < count; start += LANES) {
    const int own = std::min(LANES, count - start);
    Places place = {};
    std::memcpy(&place, places + start, sizeof(float) * own);
    Counts greater = {};
    for (int k = 0; k <= bins; ++k) greater -= edges[k] > place;  // a NaN goes last, as in torch's search
    for (int i = 0; i < own; ++i) found[start + i] = std::min(std::max(bins - greater[i], 0), bins - 1);
  }
}

// The gradient is by the proposal's weights alone.
double interlevel_of_ray(const float* edges, const float* weights, int samples, const float* proposal_edges,
                         const float* proposal_weights, int bins, float epsilon, double scale, float* grad) {
  float cumulative[MAX_SAMPLES + 1];
  double slope[MAX_SAMPLES + 1];  // of the gradient: it is constant over the bins that a sample touches
  int bin[MAX_SAMPLES + 1];
  double sum = 0.0, loss = 0.0;
  find_bins(edges, samples + 1, proposal_edges, bins, bin);
  cumulative[0] = 0.0f;
  for (int k = 0; k < bins; ++k) cumulative[k + 1] = static_cast<float>(sum += proposal_weights[k]);
  if (grad) std::fill(slope, slope + bins + 1, 0.0);
  for (int i = 0; i < samples; ++i) {
    const int first = bin[i], last = bin[i + 1];
    const float missing = weights[i] - (cumulative[last + 1] - cumulative[first]);
    const float beyond = missing < 0.0f ? 0.0f : missing;
    const float share = beyond / (weights[i] + epsilon);
    loss += beyond * share;
    if (grad) {
      const double pull = -2.0 * scale * share;
      slope[first] += pull;
      slope[last + 1] -= pull;
    }
  }
  double pull = 0.0;
  for (int k = 0; grad && k < bins; ++k) grad[k] = static_cast<float>(pull += slope[k]);
  return loss;
}

// Runs body(first ray, rays) for groups of up to `group` rays.
template <class Body>
void for_each_group(int64_t rays, int64_t group, int threads, const Body& body) {
  parallel_for((rays + RAYS_PER_TASK - 1) / RAYS_PER_TASK, threads, [&](int64_t task) {
    for (int64_t ray = task * RAYS_PER_TASK, end = std::min(rays, ray + RAYS_PER_TASK); ray < end; ray += group)
      body(ray, static_cast<int>(std::min(group, end - ray)));
  });
}

double sum_of(const double* losses, int64_t rays) {
  double sum = 0.0;
  for (int64_t ray = 0; ray < rays; ++ray) sum += losses[ray];
  return sum;
}

}  // namespace

extern "C" {

int spinnerf_ray_max_samples() { return MAX_SAMPLES; }

// density, delta, weights (rays, samples).
void spinnerf_ray_weights_forward(const float* density, const float* delta, int64_t rays, int samples, float* weights,
                                  int threads) {
  for_each_group(rays, GROUP, threads, [&](int64_t ray, int count) {
    const int64_t at = ray * samples;
    weights_of(density + at, delta + at, count, samples, weights + at);
  });
}

// grad is by weights; either of the results may be null.
void spinnerf_ray_weights_backward(const float* density, const float* delta, const float* grad, int64_t rays, int samples,
                                   float* grad_density, float* grad_delta, int threads) {
  for_each_group(rays, GROUP, threads, [&](int64_t ray, int count) {
    const int64_t at = ray * samples;
    weights_gradient_of(density + at, delta + at, grad + at, count, samples, grad_density ? grad_density + at : nullptr,
                        grad_delta ? grad_delta + at : nullptr);
  });
}

// edges (rays, samples + 1), weights (rays, samples) -> scale times the sum of the rays' losses and, unless grad is null, its
// gradient by the weights (rays, samples). Room for one loss per ray is the caller's.
double spinnerf_ray_distortion(const float* edges, int64_t edges_step, const float* weights, int64_t rays, int samples,
                               double scale, double* losses, float* grad, int threads) {
  for_each_group(rays, 1, threads, [&](int64_t ray, int) {
    const int64_t at = ray * samples;
    losses[ray] = distortion_of_ray(edges + ray * edges_step, weights + at, samples, scale, grad ? grad + at : nullptr);
  });
  return scale * sum_of(losses, rays);
}

// As above for the final samples' edges and weights, and the proposal's (rays, bins + 1) and (rays, bins), by whose weights the
// gradient is.
double spinnerf_ray_interlevel(const float* edges, int64_t edges_step, const float* weights, int samples,
                               const float* proposal_edges, int64_t proposal_edges_step, const float* proposal_weights, int bins,
                               int64_t rays, float epsilon, double scale, double* losses, float* grad, int threads) {
  for_each_group(rays, 1, threads, [&](int64_t ray, int) {
    const int64_t at = ray * bins;
    losses[ray] = interlevel_of_ray(edges + ray * edges_step, weights + ray * samples, samples,
                                    proposal_edges + ray * proposal_edges_step, proposal_weights + at, bins, epsilon, scale,
                                    grad ? grad + at : nullptr);
  });
  return scale * sum_of(losses, rays);
}
}
