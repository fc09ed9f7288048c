// Calls the CPU kernel of depthwise convolutions on random cases, each array of exactly its size: what is read or
// written beside one is for the sanitizers to see. Arguments: how many cases, and the seed.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int depthwise_forward(const std::int64_t* shape, int threads, const float* x, const float* weight,
                                 const float* bias, float* out);
extern "C" int depthwise_weight_gradient(const std::int64_t* shape, int threads, const float* x, const float* gradient,
                                         float* out);

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
    const std::int64_t samples = between(1, 3), kernels = between(1, 5), size = 2 * between(0, 3) + 1;
    const std::int64_t height = between(1, 12), width = between(1, between(0, 1) ? 12 : 80);
    const std::int64_t shape[] = {samples * kernels, kernels, height, width, size};
    const auto x = numbers(samples * kernels * height * width), weight = numbers(kernels * size * size);
    const auto bias = numbers(kernels);
    std::vector<float> out(x.size()), gradient(weight.size());
    const bool with_bias = between(0, 1);
    if (depthwise_forward(shape, between(1, 3), x.data(), weight.data(), with_bias ? bias.data() : nullptr, out.data()))
      return std::printf("case %d: no memory\n", n), 1;
    if (depthwise_weight_gradient(shape, between(1, 3), x.data(), x.data(), gradient.data()))
      return std::printf("case %d: no memory\n", n), 1;
    for (const auto& values : {out, gradient})
      for (float value : values)
        if (!std::isfinite(value)) return std::printf("case %d: not finite\n", n), 1;
    const std::int64_t unknown[] = {1, 1, 1, 1, 9};
    if (depthwise_forward(unknown, 1, x.data(), weight.data(), nullptr, out.data()) != 2) return 1;
  }
  std::printf("%d cases\n", cases);
}
