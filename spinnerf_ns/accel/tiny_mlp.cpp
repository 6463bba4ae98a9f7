// A stack of linear layers with ReLU between them, at most 64 wide: the small networks of nerfacto.
//
// torch walks each layer over all points, so that every activation goes out to memory and back and every result is a fresh
// block of pages. Here 64 points go through all layers while their activations stay in the first-level cache; the backward
// pass computes them again. Rows are points. Every product is a row of one matrix times a scalar, added to a row of
// results that stays in registers:
//
//   forward     h[p][:]  = bias + sum_i x[p][i] * W^T[i][:]
//   input       gx[p][:] = sum_o g[p][o] * W[o][:]
//   weights     gW[o][:] += sum_p g[p][o] * x[p][:]
//
// so that only the last index is padded to whole vectors. Built with -ffp-contract=fast for fused multiply-add; sums are in a
// fixed order that depends on the number of points alone.
//
// Arrays are contiguous float32, rows of x may lie further apart. weights[l] is (widths[l + 1], widths[l]).
// flags: -ffp-contract=fast

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "parallel.hpp"

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int MAX_WIDTH = 64;  // of inputs, layers and outputs
constexpr int MAX_LAYERS = 8;
constexpr int BLOCK = 64;             // points whose activations stay in the cache
constexpr int64_t LEAST_TASK = 2048;  // points a task has at least: its weights' gradient is a sum of its own
constexpr int64_t MOST_TASKS = 128;

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Mask __attribute__((vector_size(4 * LANES)));
typedef float Anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// Half as wide, for outputs of few numbers: density, colour.
typedef float Narrow __attribute__((vector_size(2 * LANES)));
typedef int32_t NarrowMask __attribute__((vector_size(2 * LANES)));
typedef float NarrowAnywhere __attribute__((vector_size(2 * LANES), aligned(4), may_alias));

struct Wide {
  static constexpr int lanes = LANES;
  typedef Vector Type;
  typedef Mask Bits;
  typedef Anywhere Memory;
};
struct Half {
  static constexpr int lanes = LANES / 2;
  typedef Narrow Type;
  typedef NarrowMask Bits;
  typedef NarrowAnywhere Memory;
};

inline Vector load(const float* from) { return *reinterpret_cast<const Anywhere*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Anywhere*>(to) = value; }
constexpr int padded(int width) { return (width + LANES - 1) / LANES * LANES; }

enum class Then { nothing, relu, relu_gradient };

// c[row][0:VECTORS] = start + sum over k of a[row * row_step + k * k_step] * b[k][0:VECTORS], for ROWS rows. `start` is the
// bias, or c itself where it is null. relu_gradient keeps the result only where `gate`, laid out as c, is above 0. As in
// torch, NaN passes both ways.
template <class W, int ROWS, int VECTORS, Then THEN>
inline void tile(const float* a, int row_step, int k_step, const float* b, int b_step, int k, const float* start, float* c,
                 int c_step, const float* gate) {
  typedef typename W::Type V;
  typedef typename W::Bits B;
  auto read = [](const float* from) -> V { return *reinterpret_cast<const typename W::Memory*>(from); };
  V sum[ROWS][VECTORS];
  for (int row = 0; row < ROWS; ++row)
    for (int v = 0; v < VECTORS; ++v) sum[row][v] = read((start ? start : c + row * c_step) + v * W::lanes);
  for (int i = 0; i < k; ++i) {
    V factor[VECTORS];
    for (int v = 0; v < VECTORS; ++v) factor[v] = read(b + i * b_step + v * W::lanes);
    for (int row = 0; row < ROWS; ++row) {
      const float scalar = a[row * row_step + i * k_step];
      for (int v = 0; v < VECTORS; ++v) sum[row][v] += scalar * factor[v];
    }
  }
  for (int row = 0; row < ROWS; ++row)
    for (int v = 0; v < VECTORS; ++v) {
      V value = sum[row][v];
      if (THEN == Then::relu) value = reinterpret_cast<V>(reinterpret_cast<B>(value) & ~(value < 0.0f));
      if (THEN == Then::relu_gradient)
        value = reinterpret_cast<V>(reinterpret_cast<B>(value) & ~(read(gate + row * c_step + v * W::lanes) <= 0.0f));
      *reinterpret_cast<typename W::Memory*>(c + row * c_step + v * W::lanes) = value;
    }
}

template <class W, int VECTORS, Then THEN>
void panel(int rows, const float* a, int row_step, int k_step, const float* b, int b_step, int k, const float* start, float* c,
           int c_step, const float* gate) {
  constexpr int TALL = VECTORS <= 2 && LANES == 16 ? 8 : 4;  // as many sums as there are registers for
  int row = 0;
  for (; row + TALL <= rows; row += TALL)
    tile<W, TALL, VECTORS, THEN>(a + row * row_step, row_step, k_step, b, b_step, k, start, c + row * c_step, c_step,
                              gate + row * c_step);
  for (; row < rows; ++row)
    tile<W, 1, VECTORS, THEN>(a + row * row_step, row_step, k_step, b, b_step, k, start, c + row * c_step, c_step,
                           gate + row * c_step);
}

// The same for any number of rows and any `width`, rounded up to whole vectors.
template <Then THEN>
void multiply(int rows, int width, const float* a, int row_step, int k_step, const float* b, int b_step, int k,
              const float* start, float* c, int c_step, const float* gate) {
  constexpr int WIDEST = LANES == 16 ? 4 : 2;
  int column = 0;
  for (const int end = padded(width); column < end;) {
    const int vectors = std::min((end - column) / LANES, WIDEST);
    const float* from = start ? start + column : nullptr;
    const float* open = gate ? gate + column : c;  // never read without relu_gradient
    if (width - column <= Half::lanes) {
      panel<Half, 1, THEN>(rows, a, row_step, k_step, b + column, b_step, k, from, c + column, c_step, open);
      return;
    }
    switch (vectors) {
      case 1: panel<Wide, 1, THEN>(rows, a, row_step, k_step, b + column, b_step, k, from, c + column, c_step, open); break;
      case 2: panel<Wide, 2, THEN>(rows, a, row_step, k_step, b + column, b_step, k, from, c + column, c_step, open); break;
      case 3: panel<Wide, 3, THEN>(rows, a, row_step, k_step, b + column, b_step, k, from, c + column, c_step, open); break;
      default: panel<Wide, 4, THEN>(rows, a, row_step, k_step, b + column, b_step, k, from, c + column, c_step, open);
    }
    column += vectors * LANES;
  }
}

// e^x for |x| up to 87, within 2 units in the last place (Cephes' polynomial).
inline Vector exponential(Vector x) {
  x = x > 87.0f ? Vector{} + 87.0f : x;
  x = x < -87.0f ? Vector{} - 87.0f : x;
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const Vector shifted = x * 1.44269504088896341f + round;
  const Vector n = shifted - round;
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Mask power = (reinterpret_cast<Mask>(shifted) - 0x4B400000 + 127) << 23;
  return p * reinterpret_cast<Vector>(power);
}

struct Layer {
  int in, out;
  alignas(64) float across[MAX_WIDTH * MAX_WIDTH];  // transposed weights, in x padded(out)
  alignas(64) float along[MAX_WIDTH * MAX_WIDTH];   // weights, out x padded(in)
  alignas(64) float bias[MAX_WIDTH];
};

struct Network {
  int layers;
  bool sigmoid;
  Layer layer[MAX_LAYERS];

  Network(const int* widths, int count, const float* const* weights, const float* const* biases, bool with_sigmoid)
      : layers(count), sigmoid(with_sigmoid) {
    for (int l = 0; l < count; ++l) {
      Layer& to = layer[l];
      to.in = widths[l];
      to.out = widths[l + 1];
      std::memset(to.across, 0, sizeof(float) * to.in * padded(to.out));
      std::memset(to.along, 0, sizeof(float) * to.out * padded(to.in));
      std::memset(to.bias, 0, sizeof(to.bias));
      std::memcpy(to.bias, biases[l], sizeof(float) * to.out);
      for (int o = 0; o < to.out; ++o)
        for (int i = 0; i < to.in; ++i)
          to.across[i * padded(to.out) + o] = to.along[o * padded(to.in) + i] = weights[l][o * to.in + i];
    }
  }
  int in() const { return layer[0].in; }
  int out() const { return layer[layers - 1].out; }
  int64_t parameters() const {
    int64_t count = 0;
    for (int l = 0; l < layers; ++l) count += static_cast<int64_t>(layer[l].out) * (layer[l].in + 1);
    return count;
  }
};

// A block's rows of activations: [0] the input, [l] what goes into layer l.
struct Activations {
  alignas(64) float of[MAX_LAYERS + 1][BLOCK * MAX_WIDTH];
};

// One row. Not memcpy: a call for every few floats took longer than the arithmetic.
inline void copy_row(const float* from, int width, float* to) {
  typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
  typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
  if (width >= 8) {
    for (int i = 0; i + 8 < width; i += 8) *reinterpret_cast<Eight*>(to + i) = *reinterpret_cast<const Eight*>(from + i);
    *reinterpret_cast<Eight*>(to + width - 8) = *reinterpret_cast<const Eight*>(from + width - 8);
  } else if (width >= 4) {
    const Four first = *reinterpret_cast<const Four*>(from), last = *reinterpret_cast<const Four*>(from + width - 4);
    *reinterpret_cast<Four*>(to) = first;
    *reinterpret_cast<Four*>(to + width - 4) = last;
  } else {
    for (int i = 0; i < width; ++i) to[i] = from[i];
  }
}

inline void gather_rows(const float* from, int64_t step, int count, int width, float* to) {
  const int wide = padded(width);
  for (int p = 0; p < count; ++p) {
    if (width < wide) store(to + p * wide + wide - LANES, Vector{});
    copy_row(from + p * step, width, to + p * wide);
  }
}

inline void scatter_rows(const float* from, int count, int width, float* to) {
  for (int p = 0; p < count; ++p) copy_row(from + p * padded(width), width, to + static_cast<int64_t>(p) * width);
}

// Takes a block's rows x through all layers but the last, then, unless `last` is null, through the last one.
inline void forward_layers(const Network& net, int count, const float* x, int x_step, Activations& rows, float* last) {
  for (int l = 0; l < net.layers; ++l) {
    const Layer& layer = net.layer[l];
    const int to = padded(layer.out);
    if (l + 1 < net.layers)
      multiply<Then::relu>(count, layer.out, x, x_step, 1, layer.across, to, layer.in, layer.bias, rows.of[l + 1], to, nullptr);
    else if (last)
      multiply<Then::nothing>(count, layer.out, x, x_step, 1, layer.across, to, layer.in, layer.bias, last, to, nullptr);
    x = rows.of[l + 1];
    x_step = to;
  }
}

int64_t task_size(int64_t n) {
  const int64_t size = std::max(LEAST_TASK, (n + MOST_TASKS - 1) / MOST_TASKS);
  return (size + BLOCK - 1) / BLOCK * BLOCK;
}

void forward(const Network& net, const float* x, int64_t n, int64_t x_step, float* out, int threads) {
  prefer_huge_pages(out, sizeof(float) * n * net.out());
  const int64_t size = task_size(n);
  const bool in_place = padded(net.out()) == net.out();
  parallel_for((n + size - 1) / size, threads, [&](int64_t task) {
    Activations rows;
    for (int64_t at = task * size, end = std::min(n, at + size); at < end; at += BLOCK) {
      const int count = static_cast<int>(std::min<int64_t>(BLOCK, end - at));
      float* result = in_place ? out + at * net.out() : rows.of[net.layers];
      forward_layers(net, count, x + at * x_step, static_cast<int>(x_step), rows, result);
      if (net.sigmoid)
        for (int i = 0; i < count * padded(net.out()); i += LANES) store(result + i, 1.0f / (1.0f + exponential(-load(result + i))));
      if (!in_place) scatter_rows(result, count, net.out(), out + at * net.out());
    }
  });
}

// Sums of one task, each weight row padded as in Layer::along, then the bias.
struct Sums {
  alignas(64) float weights[MAX_LAYERS][MAX_WIDTH * MAX_WIDTH];
  alignas(64) float bias[MAX_LAYERS][MAX_WIDTH];
};

// g holds the block's gradient by the output, in padded rows; grad_x, unless null, gets the one by the input.
void backward_block(const Network& net, int count, const Activations& rows, float* g, float* g_below, float* grad_x, Sums* sums) {
  alignas(64) static const float zeros[MAX_WIDTH] = {};
  for (int l = net.layers - 1; l >= 0; --l) {
    const Layer& layer = net.layer[l];
    const int in = padded(layer.in), out = padded(layer.out);
    if (sums) {
      multiply<Then::nothing>(layer.out, layer.in, g, 1, out, rows.of[l], in, count, nullptr, sums->weights[l], in, nullptr);
      for (int v = 0; v < out; v += LANES) {
        Vector sum = load(sums->bias[l] + v);
        for (int p = 0; p < count; ++p) sum += load(g + p * out + v);
        store(sums->bias[l] + v, sum);
      }
    }
    if (l > 0) {
      multiply<Then::relu_gradient>(count, layer.in, g, out, 1, layer.along, in, layer.out, zeros, g_below, in, rows.of[l]);
      std::swap(g, g_below);
    } else if (grad_x) {
      const bool in_place = in == layer.in;
      multiply<Then::nothing>(count, in, g, out, 1, layer.along, in, layer.out, zeros, in_place ? grad_x : g_below, in, nullptr);
      if (!in_place) scatter_rows(g_below, count, layer.in, grad_x);
    }
  }
}

// `y` is the output, needed after a sigmoid alone. grad_parameters: per layer its weights' gradient and its biases'.
bool backward(const Network& net, const float* x, int64_t n, int64_t x_step, const float* y, const float* grad_out,
              float* grad_x, float* grad_parameters, int threads) {
  const int64_t size = task_size(n), tasks = (n + size - 1) / size, parameters = net.parameters();
  float* parts = nullptr;
  if (grad_parameters) {
    std::memset(grad_parameters, 0, sizeof(float) * parameters);
    parts = static_cast<float*>(std::malloc(sizeof(float) * static_cast<size_t>(std::max<int64_t>(tasks, 1) * parameters)));
    if (!parts) return false;
  }
  if (grad_x) prefer_huge_pages(grad_x, sizeof(float) * n * net.in());
  parallel_for(tasks, threads, [&](int64_t task) {
    Activations rows;
    Sums sums;
    alignas(64) float g[BLOCK * MAX_WIDTH], g_below[BLOCK * MAX_WIDTH];
    if (parts)
      for (int l = 0; l < net.layers; ++l) {
        std::memset(sums.weights[l], 0, sizeof(float) * net.layer[l].out * padded(net.layer[l].in));
        std::memset(sums.bias[l], 0, sizeof(sums.bias[l]));
      }
    for (int64_t at = task * size, end = std::min(n, at + size); at < end; at += BLOCK) {
      const int count = static_cast<int>(std::min<int64_t>(BLOCK, end - at));
      gather_rows(x + at * x_step, x_step, count, net.in(), rows.of[0]);
      forward_layers(net, count, rows.of[0], padded(net.in()), rows, nullptr);
      gather_rows(grad_out + at * net.out(), net.out(), count, net.out(), g);
      if (net.sigmoid) {
        gather_rows(y + at * net.out(), net.out(), count, net.out(), g_below);
        for (int i = 0; i < count * padded(net.out()); i += LANES)
          store(g + i, load(g + i) * (1.0f - load(g_below + i)) * load(g_below + i));
      }
      backward_block(net, count, rows, g, g_below, grad_x ? grad_x + at * net.in() : nullptr, parts ? &sums : nullptr);
    }
    if (!parts) return;
    float* part = parts + task * parameters;
    for (int l = 0; l < net.layers; ++l) {
      const Layer& layer = net.layer[l];
      scatter_rows(sums.weights[l], layer.out, layer.in, part);
      part += static_cast<int64_t>(layer.out) * layer.in;
      std::memcpy(part, sums.bias[l], sizeof(float) * layer.out);
      part += layer.out;
    }
  });
  for (int64_t task = 0; parts && task < tasks; ++task)
    for (int64_t i = 0; i < parameters; ++i) grad_parameters[i] += parts[task * parameters + i];
  std::free(parts);
  return true;
}

}  // namespace

extern "C" {

int spinnerf_mlp_max_width() { return MAX_WIDTH; }
int spinnerf_mlp_max_layers() { return MAX_LAYERS; }

// x (n, widths[0]), rows x_step floats apart; out (n, widths[layers]).
void spinnerf_mlp_forward(const float* x, int64_t n, int64_t x_step, const int* widths, int layers, const float* const* weights,
                          const float* const* biases, int sigmoid, float* out, int threads) {
  const Network net(widths, layers, weights, biases, sigmoid != 0);
  forward(net, x, n, x_step, out, threads);
}

// Returns 0, or 1 where memory ran out. grad_x and grad_parameters are overwritten; either may be null.
int spinnerf_mlp_backward(const float* x, int64_t n, int64_t x_step, const int* widths, int layers, const float* const* weights,
                          const float* const* biases, int sigmoid, const float* y, const float* grad_out, float* grad_x,
                          float* grad_parameters, int threads) {
  const Network net(widths, layers, weights, biases, sigmoid != 0);
  return backward(net, x, n, x_step, y, grad_out, grad_x, grad_parameters, threads) ? 0 : 1;
}
}
