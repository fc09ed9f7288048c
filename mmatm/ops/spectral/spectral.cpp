// StarReLU, and the product of spectra with filters that are mixed for each plane, forward and gradients, on the CPU,
// behind a plain C interface: nothing here knows of PyTorch or Python.
//
// A spectrum is a row of values: of real numbers, or of the real and the imaginary part of one frequency after the
// other. Rows are taken in blocks that stay in the processor's cache, with one mixed filter of a block at a time.

#include <cstdint>
#include <cstdlib>

namespace {

using Index = std::int64_t;
constexpr Index BLOCK = 1024;

inline Index least(Index a, Index b) { return a < b ? a : b; }

// The filter of a plane: what its shares of each of the filters add up to.
void mix(Index filters, Index size, Index values, const float* shares, const float* basis, float* mixed) {
  for (Index i = 0; i < size; ++i) mixed[i] = shares[0] * basis[i];
  for (Index f = 1; f < filters; ++f)
    for (Index i = 0; i < size; ++i) mixed[i] += shares[f] * basis[f * values + i];
}

// to = a * b, or a * conj(b)
template <bool COMPLEX, bool CONJUGATE>
void multiply(Index size, const float* a, const float* b, float* to) {
  if (!COMPLEX) {
    for (Index i = 0; i < size; ++i) to[i] = a[i] * b[i];
    return;
  }
  for (Index i = 0; i < size; i += 2) {
    const float real = a[i], imaginary = a[i + 1], x = b[i], y = CONJUGATE ? -b[i + 1] : b[i + 1];
    to[i] = real * x - imaginary * y;
    to[i + 1] = real * y + imaginary * x;
  }
}

float dot(Index size, const float* a, const float* b) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

template <bool COMPLEX>
void filter(Index planes, Index filters, Index values, int threads, float* spectra, const float* shares,
            const float* basis) {
  const Index blocks = (values + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
  for (Index block = 0; block < blocks; ++block)
    for (Index plane = 0; plane < planes; ++plane) {
      float mixed[BLOCK];
      const Index start = block * BLOCK, size = least(BLOCK, values - start);
      float* spectrum = spectra + plane * values + start;
      mix(filters, size, values, shares + plane * filters, basis + start, mixed);
      multiply<COMPLEX, false>(size, spectrum, mixed, spectrum);
    }
}

template <bool COMPLEX>
int filter_gradients(Index planes, Index filters, Index values, int threads, const float* spectra,
                     const float* shares, const float* basis, const float* counted, float* gradients,
                     float* for_shares, float* for_basis) {
  const Index blocks = (values + BLOCK - 1) / BLOCK, all = planes * filters;
  // What each block adds to the shares' gradients: they are added up in the same order by any number of threads.
  float* sums = static_cast<float*>(std::malloc(blocks * all * sizeof(float)));
  if (sums == nullptr) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index block = 0; block < blocks; ++block) {
    float mixed[BLOCK], of_filter[BLOCK];
    const Index start = block * BLOCK, size = least(BLOCK, values - start);
    for (Index plane = 0; plane < planes; ++plane) {
      const float* share = shares + plane * filters;
      float* gradient = gradients + plane * values + start;
      multiply<COMPLEX, true>(size, gradient, spectra + plane * values + start, of_filter);
      mix(filters, size, values, share, basis + start, mixed);
      multiply<COMPLEX, true>(size, gradient, mixed, gradient);
      for (Index f = 0; f < filters; ++f) {
        sums[block * all + plane * filters + f] = dot(size, of_filter, counted + f * values + start);
        float* to = for_basis + f * values + start;
        for (Index i = 0; i < size; ++i) to[i] += share[f] * of_filter[i];
      }
    }
  }
  for (Index block = 0; block < blocks; ++block)
    for (Index i = 0; i < all; ++i) for_shares[i] += sums[block * all + i];
  std::free(sums);
  return 0;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// By which a library built from another version of this file is told.
EXPORT const std::uint32_t source_crc;
const std::uint32_t source_crc = SOURCE_CRC;

// All arrays are contiguous. x (n) -> out (n), which may be x: scale * relu(x)^2 + bias.
EXPORT void star_relu(Index n, int threads, const float* x, const float* scale, const float* bias, float* out) {
  const float by = *scale, plus = *bias;
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (Index i = 0; i < n; ++i) {
    const float positive = x[i] < 0.f ? 0.f : x[i];  // a NaN stays one
    out[i] = by * positive * positive + plus;
  }
}

// x and the gradient of the result (n) -> the gradients of x (n), which may be the result's, of the scale and the bias.
EXPORT void star_relu_gradients(Index n, int threads, const float* x, const float* gradient, const float* scale,
                                float* for_x, float* for_scale, float* for_bias) {
  const float twice = 2.f * *scale;
  // Sums of parts, which are added up in the same order by any number of threads.
  constexpr Index PARTS = 256;
  double squares[PARTS] = {}, sums[PARTS] = {};
  const Index each = (n + PARTS - 1) / PARTS;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index part = 0; part < PARTS; ++part) {
    const Index last = least((part + 1) * each, n);
    for (Index start = part * each; start < last; start += BLOCK) {
      const Index end = least(start + BLOCK, last);
      float square = 0.f, sum = 0.f;
#pragma omp simd reduction(+ : square, sum)
      for (Index i = start; i < end; ++i) {
        const float given = gradient[i], positive = x[i] < 0.f ? 0.f : x[i], product = given * positive;
        square += product * positive;
        sum += given;
        for_x[i] = twice * product;
      }
      squares[part] += square;
      sums[part] += sum;
    }
  }
  for (Index part = 1; part < PARTS; ++part) {
    squares[0] += squares[part];
    sums[0] += sums[part];
  }
  *for_scale = static_cast<float>(squares[0]);
  *for_bias = static_cast<float>(sums[0]);
}

// shape: planes, filters, values of a spectrum. spectra (planes, values) are multiplied, in place, with the filters that
// shares (planes, filters) mix of basis (filters, values).
EXPORT void filter_spectra(const Index* shape, int is_complex, int threads, float* spectra, const float* shares,
                           const float* basis) {
  (is_complex ? filter<true> : filter<false>)(shape[0], shape[1], shape[2], threads, spectra, shares, basis);
}

// The gradients (planes, values) of the results become those of the spectra, in place. To for_shares and for_basis are
// added those of shares and of basis; counted is basis, or basis as the shares' gradients are to count it.
// Returns 1 if memory is short, else 0.
EXPORT int filter_spectra_gradients(const Index* shape, int is_complex, int threads, const float* spectra,
                                    const float* shares, const float* basis, const float* counted, float* gradients,
                                    float* for_shares, float* for_basis) {
  return (is_complex ? filter_gradients<true> : filter_gradients<false>)(
      shape[0], shape[1], shape[2], threads, spectra, shares, basis, counted, gradients, for_shares, for_basis);
}
