// Batch normalization, residual addition and ReLU of a channels_last tensor, seen as a row-major matrix [rows, channels].
//
// Plain C++17 without PyTorch's headers, so that it compiles in seconds; called through ctypes (see library.py).
// Arithmetic is float32 on float32 or bfloat16 data; sums over more than a block are float64.
//
// - Columns: a few rows are taken together as one long row ("tile"), so that inner loops run over hundreds of contiguous
//   numbers whatever the number of channels is. Per-channel numbers are repeated along the tile.
// - Rows: they are cut into blocks by a rule that knows nothing of threads, and partial results are added in the order
//   of the blocks. The same input gives the same bits with any number of threads.
// - A NaN stays a NaN: comparisons are written so that it passes the ReLU, and its gradient too, as in PyTorch.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using bf16 = uint16_t;  // the upper half of a float

inline float load(const float& value) { return value; }
inline float load(const bf16& value) { return __builtin_bit_cast(float, uint32_t(value) << 16); }

inline void store(float& target, float value) { target = value; }
inline void store(bf16& target, float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t nearest_even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  target = value != value ? bf16(0x7fc0) : bf16(nearest_even);
}

// `value` where `pass` is not <= 0, else 0. On bits, because compilers turn `?:` on a loaded number into a branch.
inline float passed(float value, float pass) {
  const uint32_t keep = pass <= 0.0f ? 0u : ~0u;
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, value) & keep);
}

template <typename T>
T* advanced(T* pointer, int64_t count) {
  return pointer ? pointer + count : nullptr;
}

struct Layout {
  int64_t rows, channels;
  int64_t tile_rows, width;  // width = tile_rows * channels
  int64_t block_rows, blocks;

  Layout(int64_t rows_, int64_t channels_) : rows(rows_), channels(channels_) {
    constexpr int64_t least_width = 256, most_blocks = 32, least_tiles = 32;
    tile_rows = std::max<int64_t>(1, least_width / channels);
    width = tile_rows * channels;
    const int64_t tiles = (rows + tile_rows - 1) / tile_rows;
    block_rows = std::max(least_tiles, (tiles + most_blocks - 1) / most_blocks) * tile_rows;
    blocks = (rows + block_rows - 1) / block_rows;
  }

  std::vector<float> repeated(const float* per_channel) const {
    std::vector<float> tile(width);
    for (int64_t row = 0; row < width; row += channels) std::copy_n(per_channel, channels, &tile[row]);
    return tile;
  }

  // The sum over the tile's rows, per channel.
  void fold(const std::vector<float>& tile, double* sums) const {
    std::fill_n(sums, channels, 0.0);
    for (int64_t row = 0; row < width; row += channels)
      for (int64_t c = 0; c < channels; ++c) sums[c] += tile[row + c];
  }

  // Calls work(block, offset of its first number, how many) for every block.
  template <typename Work>
  void each_block(int threads, Work work) const {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * block_rows;
      work(block, first * channels, std::min(block_rows, rows - first) * channels);
    }
  }

  // Calls work(offset, how many <= width) for every tile of a block; only the last one may be incomplete.
  template <typename Work>
  void each_tile(int64_t begin, int64_t count, Work work) const {
    int64_t done = 0;
    for (; done + width <= count; done += width) work(begin + done, width);
    if (done < count) work(begin + done, count - done);
  }
};

struct Affine {
  std::vector<float> mean, scale, shift;  // along the tile: (x - mean) * scale + shift

  Affine(const Layout& layout, const float* batch_mean, const float* inverse_std, const float* weight,
         const float* bias) {
    std::vector<float> scale_of(layout.channels), shift_of(layout.channels, 0.0f);
    for (int64_t c = 0; c < layout.channels; ++c) {
      scale_of[c] = weight ? inverse_std[c] * weight[c] : inverse_std[c];
      if (bias) shift_of[c] = bias[c];
    }
    mean = layout.repeated(batch_mean);
    scale = layout.repeated(scale_of.data());
    shift = layout.repeated(shift_of.data());
  }
};

// The inner loops. Free functions, so that the compiler knows that nothing overlaps: it vectorizes each of them.

template <typename T>
void add_moments(int64_t n, const T* __restrict x, const float* __restrict pivot, float* __restrict sum,
                 float* __restrict square) {
  for (int64_t j = 0; j < n; ++j) {
    const float shifted = load(x[j]) - pivot[j];
    sum[j] += shifted;
    square[j] += shifted * shifted;
  }
}

template <bool relu, bool add, typename T>
void apply(int64_t n, const T* __restrict x, const T* __restrict residual, const float* __restrict mean,
           const float* __restrict scale, const float* __restrict shift, T* __restrict output) {
  for (int64_t j = 0; j < n; ++j) {
    float value = (load(x[j]) - mean[j]) * scale[j] + shift[j];
    if constexpr (add) value += load(residual[j]);
    if constexpr (relu) value = passed(value, value);
    store(output[j], value);
  }
}

// Where the sign comes from that decides whether a gradient passes the ReLU.
enum class Mask {
  none,      // there is no ReLU, or the gradient has passed it already
  computed,  // the normalized value, computed anew from x
  output     // the stored output, where a residual took part; the gradient that passed is stored
};

template <Mask mask, typename T>
void add_gradients(int64_t n, const T* __restrict x, const T* __restrict output, const T* __restrict gradient,
                   const float* __restrict mean, const float* __restrict scale, const float* __restrict shift,
                   T* __restrict masked, float* __restrict sum, float* __restrict product) {
  for (int64_t j = 0; j < n; ++j) {
    const float centred = load(x[j]) - mean[j];
    float g = load(gradient[j]);
    if constexpr (mask == Mask::computed) g = passed(g, centred * scale[j] + shift[j]);
    if constexpr (mask == Mask::output) store(masked[j], g = passed(g, load(output[j])));
    sum[j] += g;
    product[j] += g * centred;
  }
}

template <Mask mask, typename T>
void input_gradient(int64_t n, const T* __restrict x, const T* __restrict gradient, const float* __restrict mean,
                    const float* __restrict scale, const float* __restrict shift, const float* __restrict offset,
                    const float* __restrict slope, T* __restrict result) {
  for (int64_t j = 0; j < n; ++j) {
    const float centred = load(x[j]) - mean[j];
    float g = load(gradient[j]);
    if constexpr (mask == Mask::computed) g = passed(g, centred * scale[j] + shift[j]);
    store(result[j], scale[j] * (g - offset[j] - centred * slope[j]));
  }
}

// Mean and sum of squared deviations of every channel. Each block shifts by its own first row, which keeps the squares
// as small as the spread of the data however far from zero they lie; blocks are merged by Chan, Golub and LeVeque (1983).
template <typename T>
void moments(const Layout& layout, const T* x, int threads, std::vector<double>& mean, std::vector<double>& squares) {
  const int64_t C = layout.channels, width = layout.width;
  std::vector<double> means(layout.blocks * C), deviations(layout.blocks * C);
  layout.each_block(threads, [&](int64_t block, int64_t begin, int64_t count) {
    std::vector<float> first_row(C), sum(width, 0.0f), square(width, 0.0f);
    for (int64_t c = 0; c < C; ++c) first_row[c] = load(x[begin + c]);
    const std::vector<float> pivot = layout.repeated(first_row.data());
    layout.each_tile(begin, count, [&](int64_t at, int64_t n) {
      add_moments(n, x + at, pivot.data(), sum.data(), square.data());
    });
    double *block_mean = &means[block * C], *deviation = &deviations[block * C];
    layout.fold(sum, block_mean);
    layout.fold(square, deviation);
    const double n = double(count / C);
    for (int64_t c = 0; c < C; ++c) {
      deviation[c] = std::max(deviation[c] - block_mean[c] * block_mean[c] / n, 0.0);  // in this order NaN stays
      block_mean[c] = pivot[c] + block_mean[c] / n;
    }
  });
  mean.assign(C, 0.0);
  squares.assign(C, 0.0);
  double before = 0;
  for (int64_t block = 0; block < layout.blocks; ++block) {
    const double n = double(std::min(layout.block_rows, layout.rows - block * layout.block_rows));
    for (int64_t c = 0; c < C; ++c) {
      const double step = means[block * C + c] - mean[c];
      mean[c] += step * (n / (before + n));
      squares[c] += deviations[block * C + c] + step * step * (before * n / (before + n));
    }
    before += n;
  }
}

// Per channel: sum of the gradient g behind the ReLU, and sum of g (x - mean).
template <Mask mask, typename T>
void gradient_sums(const Layout& layout, const Affine& affine, const T* x, const T* output, const T* gradient,
                   T* masked, int threads, std::vector<double>& sums, std::vector<double>& products) {
  const int64_t C = layout.channels;
  std::vector<double> partial(layout.blocks * 2 * C);
  layout.each_block(threads, [&](int64_t block, int64_t begin, int64_t count) {
    std::vector<float> sum(layout.width, 0.0f), product(layout.width, 0.0f);
    layout.each_tile(begin, count, [&](int64_t at, int64_t n) {
      add_gradients<mask>(n, x + at, advanced(output, at), gradient + at, affine.mean.data(), affine.scale.data(),
                          affine.shift.data(), advanced(masked, at), sum.data(), product.data());
    });
    layout.fold(sum, &partial[block * 2 * C]);
    layout.fold(product, &partial[block * 2 * C + C]);
  });
  sums.assign(C, 0.0);
  products.assign(C, 0.0);
  for (int64_t block = 0; block < layout.blocks; ++block)
    for (int64_t c = 0; c < C; ++c) {
      sums[c] += partial[block * 2 * C + c];
      products[c] += partial[block * 2 * C + C + c];
    }
}

struct Parameters {
  int64_t rows, channels;
  const float *weight, *bias;           // or null
  float *running_mean, *running_var;    // or null
  float *mean, *inverse_std;            // of the batch: written forward, read backward
  float *weight_gradient, *bias_gradient;
  double momentum, eps;
  int32_t relu, threads;
};

template <typename T>
void forward(const Parameters& p, const T* x, const T* residual, T* output) {
  const Layout layout(p.rows, p.channels);
  std::vector<double> mean, squares;
  moments(layout, x, p.threads, mean, squares);
  for (int64_t c = 0; c < p.channels; ++c) {
    p.mean[c] = float(mean[c]);
    p.inverse_std[c] = float(1.0 / std::sqrt(squares[c] / double(p.rows) + p.eps));
    if (!p.running_mean) continue;
    const double unbiased = squares[c] / double(p.rows - 1);
    p.running_mean[c] = float((1.0 - p.momentum) * p.running_mean[c] + p.momentum * mean[c]);
    p.running_var[c] = float((1.0 - p.momentum) * p.running_var[c] + p.momentum * unbiased);
  }
  const Affine affine(layout, p.mean, p.inverse_std, p.weight, p.bias);
  auto inner = residual ? (p.relu ? apply<true, true, T> : apply<false, true, T>)
                        : (p.relu ? apply<true, false, T> : apply<false, false, T>);
  layout.each_block(p.threads, [&](int64_t, int64_t begin, int64_t count) {
    layout.each_tile(begin, count, [&](int64_t at, int64_t n) {
      inner(n, x + at, advanced(residual, at), affine.mean.data(), affine.scale.data(), affine.shift.data(), output + at);
    });
  });
}

// `output` and `masked` are given where a residual was added in front of a ReLU; `result` is null where x needs no gradient.
template <typename T>
void backward(const Parameters& p, const T* x, const T* output, const T* gradient, T* masked, T* result) {
  const Layout layout(p.rows, p.channels);
  const Affine affine(layout, p.mean, p.inverse_std, p.weight, p.bias);
  const Mask mask = masked ? Mask::output : p.relu ? Mask::computed : Mask::none;
  std::vector<double> sums, products;
  auto reduce = mask == Mask::output     ? gradient_sums<Mask::output, T>
                : mask == Mask::computed ? gradient_sums<Mask::computed, T>
                                         : gradient_sums<Mask::none, T>;
  reduce(layout, affine, x, output, gradient, masked, p.threads, sums, products);

  std::vector<float> mean_gradient(p.channels), slopes(p.channels);
  for (int64_t c = 0; c < p.channels; ++c) {
    const double inverse_std = p.inverse_std[c];
    p.bias_gradient[c] = float(sums[c]);
    p.weight_gradient[c] = float(products[c] * inverse_std);
    mean_gradient[c] = float(sums[c] / double(p.rows));
    slopes[c] = float(products[c] * inverse_std * inverse_std / double(p.rows));
  }
  if (!result) return;
  const std::vector<float> offset = layout.repeated(mean_gradient.data()), slope = layout.repeated(slopes.data());
  const T* from = masked ? masked : gradient;
  auto inner = mask == Mask::computed ? input_gradient<Mask::computed, T> : input_gradient<Mask::none, T>;
  layout.each_block(p.threads, [&](int64_t, int64_t begin, int64_t count) {
    layout.each_tile(begin, count, [&](int64_t at, int64_t n) {
      inner(n, x + at, from + at, affine.mean.data(), affine.scale.data(), affine.shift.data(), offset.data(),
            slope.data(), result + at);
    });
  });
}

}  // namespace

// One set of entry points per type of data. Pointers are to dense matrices [rows, channels].
#define NORMSCOPE_ENTRY_POINTS(name, T)                                                                             \
  void normscope_forward_##name(const Parameters* p, const T* x, const T* residual, T* output) {                    \
    forward(*p, x, residual, output);                                                                               \
  }                                                                                                                 \
  void normscope_backward_##name(const Parameters* p, const T* x, const T* output, const T* gradient, T* masked,    \
                                 T* result) {                                                                       \
    backward(*p, x, output, gradient, masked, result);                                                              \
  }

extern "C" {
NORMSCOPE_ENTRY_POINTS(float, float)
NORMSCOPE_ENTRY_POINTS(bf16, bf16)
}
