// Depthwise convolution on the CPU, forward and the gradient by the kernels, behind a plain C interface: nothing here
// knows of PyTorch or Python.
//
// Each channel of a sample is a plane. It is copied into a buffer with zeros around it, so that no loop has to look at
// borders, and stays in the processor's cache while all K x K positions of the kernel are read.

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

using Index = std::int64_t;
constexpr Index LANES = 8;
constexpr Index MOST = 8;  // vectors of a row at once
using Vector = float __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
inline Index up(Index n, Index to) { return (n + to - 1) / to * to; }

// Rows of a padded plane: K / 2 zeros in front, and behind as many as whole vectors read.
struct Padded {
  Index height, width, margin, rows, stride;
  Padded(Index height, Index width, Index kernel)
      : height(height), width(width), margin(kernel / 2), rows(height + 2 * margin),
        stride(up(width, MOST * LANES) + 2 * margin) {}
  Index size() const { return rows * stride; }
  void fill(const float* plane, float* buffer) const {
    for (Index row = 0; row < height; ++row)
      std::memcpy(buffer + (row + margin) * stride + margin, plane + row * width, width * sizeof(float));
  }
};

// VECTORS of a row at once, for as many as a value of the kernel is read once.
template <int K, int VECTORS>
void convolve_plane(const Padded& p, const float* padded, const float* kernel, float bias, float* out) {
  for (Index row = 0; row < p.height; ++row) {
    for (Index column = 0; column < p.width; column += VECTORS * LANES) {
      Vector sum[VECTORS];
      for (int v = 0; v < VECTORS; ++v) sum[v] = Vector{} + bias;
      const float* corner = padded + row * p.stride + column;
      for (int i = 0; i < K; ++i)
        for (int j = 0; j < K; ++j)
          for (int v = 0; v < VECTORS; ++v)
            sum[v] += kernel[i * K + j] * load(corner + i * p.stride + j + v * LANES);
      float* to = out + row * p.width + column;
      if (column + VECTORS * LANES <= p.width)
        for (int v = 0; v < VECTORS; ++v) store(to + v * LANES, sum[v]);
      else
        std::memcpy(to, sum, (p.width - column) * sizeof(float));
    }
  }
}

// Adds to sums (K, K, LANES) what a plane and the gradient of its result, with zeros up to whole vectors, give.
template <int K>
void correlate_plane(const Padded& p, const float* padded, const float* gradient, Index gradient_stride, float* sums) {
  for (Index row = 0; row < p.height; ++row) {
    for (int i = 0; i < K; ++i) {
      Vector sum[K];
      for (int j = 0; j < K; ++j) sum[j] = load(sums + (i * K + j) * LANES);
      const float* from = padded + (row + i) * p.stride;
      const float* with = gradient + row * gradient_stride;
      for (Index column = 0; column < p.width; column += LANES) {
        const Vector g = load(with + column);
        for (int j = 0; j < K; ++j) sum[j] += g * load(from + column + j);
      }
      for (int j = 0; j < K; ++j) store(sums + (i * K + j) * LANES, sum[j]);
    }
  }
}

template <int K>
int forward(Index planes, Index kernels, Index height, Index width, int threads, const float* x, const float* weight,
            const float* bias, float* out) {
  const Padded p(height, width, K);
  const auto convolve = width > 4 * LANES   ? convolve_plane<K, MOST>
                        : width > 2 * LANES ? convolve_plane<K, 4>
                        : width > LANES     ? convolve_plane<K, 2>
                                            : convolve_plane<K, 1>;
  int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
  {
    float* buffer = static_cast<float*>(std::calloc(p.size(), sizeof(float)));
    failed = buffer == nullptr;
#pragma omp for schedule(static)
    for (Index plane = 0; plane < planes; ++plane) {
      if (buffer == nullptr) continue;
      p.fill(x + plane * height * width, buffer);
      const Index kernel = plane % kernels;
      convolve(p, buffer, weight + kernel * K * K, bias == nullptr ? 0.f : bias[kernel], out + plane * height * width);
    }
    std::free(buffer);
  }
  return failed;
}

template <int K>
int weight_gradient(Index samples, Index kernels, Index height, Index width, int threads, const float* x,
                    const float* gradient, float* out) {
  const Padded p(height, width, K);
  const Index stride = up(width, LANES);
  int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
  {
    float* buffer = static_cast<float*>(std::calloc(p.size() + height * stride, sizeof(float)));
    float* with = buffer + p.size();
    failed = buffer == nullptr;
#pragma omp for schedule(static)
    for (Index kernel = 0; kernel < kernels; ++kernel) {
      if (buffer == nullptr) continue;
      float sums[K * K * LANES] = {};
      for (Index sample = 0; sample < samples; ++sample) {
        const Index start = (sample * kernels + kernel) * height * width;
        p.fill(x + start, buffer);
        for (Index row = 0; row < height; ++row)
          std::memcpy(with + row * stride, gradient + start + row * width, width * sizeof(float));
        correlate_plane<K>(p, buffer, with, stride, sums);
      }
      for (int i = 0; i < K * K; ++i) {
        float sum = 0.f;
        for (int lane = 0; lane < LANES; ++lane) sum += sums[i * LANES + lane];
        out[kernel * K * K + i] = sum;
      }
    }
    std::free(buffer);
  }
  return failed;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// By which a library built from another version of this file is told.
EXPORT const std::uint32_t source_crc;
const std::uint32_t source_crc = SOURCE_CRC;

// All arrays are contiguous. shape: planes (B * C), kernels, H, W, K; plane n is convolved with kernel n % kernels.
// x (planes, H, W), weight (kernels, K, K), bias (kernels) or null -> out (planes, H, W).
// Both functions return 0, 1 if memory is short, 2 if there is no such K.
EXPORT int depthwise_forward(const Index* shape, int threads, const float* x, const float* weight, const float* bias,
                             float* out) {
  const auto run = [&](auto function) {
    return function(shape[0], shape[1], shape[2], shape[3], threads, x, weight, bias, out);
  };
  switch (shape[4]) {
    case 1: return run(forward<1>);
    case 3: return run(forward<3>);
    case 5: return run(forward<5>);
    case 7: return run(forward<7>);
    default: return 2;
  }
}

// x and the gradient of the result (planes, H, W) -> the gradient of the weight (kernels, K, K).
EXPORT int depthwise_weight_gradient(const Index* shape, int threads, const float* x, const float* gradient,
                                     float* out) {
  const auto run = [&](auto function) {
    return function(shape[0] / shape[1], shape[1], shape[2], shape[3], threads, x, gradient, out);
  };
  switch (shape[4]) {
    case 1: return run(weight_gradient<1>);
    case 3: return run(weight_gradient<3>);
    case 5: return run(weight_gradient<5>);
    case 7: return run(weight_gradient<7>);
    default: return 2;
  }
}
