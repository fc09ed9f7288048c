// Calls the CPU kernels of spectra on random cases, each array of exactly its size: what is read or written beside one
// is for the sanitizers to see. Arguments: how many cases, and the seed.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" void star_relu(std::int64_t n, int threads, const float* x, const float* scale, const float* bias,
                          float* out);
extern "C" void star_relu_gradients(std::int64_t n, int threads, const float* x, const float* gradient,
                                    const float* scale, float* for_x, float* for_scale, float* for_bias);
extern "C" void filter_spectra(const std::int64_t* shape, int is_complex, int threads, float* spectra,
                               const float* shares, const float* basis);
extern "C" int filter_spectra_gradients(const std::int64_t* shape, int is_complex, int threads, const float* spectra,
                                        const float* shares, const float* basis, const float* counted,
                                        float* gradients, float* for_shares, float* for_basis);

int main(int, char** arguments) {
  const int cases = std::atoi(arguments[1]);
  std::mt19937 random(std::atoi(arguments[2]));
  const auto between = [&](int least, int most) { return std::uniform_int_distribution<int>(least, most)(random); };
  const auto numbers = [&](std::int64_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = between(-8, 8) / 8.f;
    return values;
  };
  for (int n = 0; n < cases; ++n) {
    const int is_complex = between(0, 1), large = between(0, 19) == 0;
    const std::int64_t values = (is_complex + 1) * between(1, large ? 1500 : 40);
    const std::int64_t shape[] = {between(1, 5), between(1, 8), values};
    auto spectra = numbers(shape[0] * values), gradients = numbers(shape[0] * values);
    const auto shares = numbers(shape[0] * shape[1]), basis = numbers(shape[1] * values);
    std::vector<float> for_shares(shares.size()), for_basis(basis.size()), out(spectra.size());
    float scale = 0.5f, bias = 0.25f, for_scale, for_bias;
    const std::int64_t size = spectra.size();
    star_relu(size, between(1, 3), spectra.data(), &scale, &bias, out.data());
    star_relu_gradients(size, between(1, 3), spectra.data(), gradients.data(), &scale, out.data(), &for_scale,
                        &for_bias);
    if (filter_spectra_gradients(shape, is_complex, between(1, 3), spectra.data(), shares.data(), basis.data(),
                                 basis.data(), gradients.data(), for_shares.data(), for_basis.data()))
      return std::printf("case %d: no memory\n", n), 1;
    filter_spectra(shape, is_complex, between(1, 3), spectra.data(), shares.data(), basis.data());
    for (const auto& array : {spectra, gradients, for_shares, for_basis, out, std::vector<float>{for_scale, for_bias}})
      for (float value : array)
        if (!std::isfinite(value)) return std::printf("case %d: not finite\n", n), 1;
  }
  std::printf("%d cases\n", cases);
}
