// The CPU kernel on random cases, in buffers of exactly the size that it is told, against the definition in double.
// Built by test_sanitizers.py with AddressSanitizer and UndefinedBehaviorSanitizer. Arguments: cases, seed.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

extern "C" std::size_t __sanitizer_get_current_allocated_bytes();  // of a header that not every compiler brings

using Index = std::int64_t;

extern "C" int axial_sample_forward(int type, const Index* shape, int threads, const void* x, const void* offset,
                                    void* sampled);
extern "C" int axial_sample_backward(int type, const Index* shape, int threads, const void* sampled,
                                     const void* offset, const void* gradient, void* x_gradient,
                                     void* offset_gradient);

enum Type { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };

std::mt19937_64 generator;

Index draw(Index least, Index most) { return std::uniform_int_distribution<Index>(least, most)(generator); }
bool chance(int one_in) { return draw(1, one_in) == 1; }
template <typename T>
T pick(std::initializer_list<T> choices) { return choices.begin()[draw(0, choices.size() - 1)]; }

// ---- Numbers of a type, by their bits

Index bytes_of(int type) { return type == FLOAT64 ? 8 : type == FLOAT32 ? 4 : 2; }

double half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double value = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  if (exponent == 31) value = fraction ? NAN : INFINITY;
  return bits >> 15 ? -value : value;
}

// Memory of the heap exactly as large as the numbers in it, for none of them too.
struct Numbers {
  int type;
  Index count;
  std::unique_ptr<char[]> bytes;

  Numbers(int type, Index count) : type(type), count(count), bytes(new char[count * bytes_of(type)]) {
    for (Index i = 0; i < count * bytes_of(type); ++i) bytes[i] = char(0xff);  // NaN in each type
  }
  double get(Index i) const {
    const char* from = bytes.get() + i * bytes_of(type);
    double wide;
    float single;
    std::uint16_t bits;
    switch (type) {
      case FLOAT64: return std::memcpy(&wide, from, 8), wide;
      case FLOAT32: return std::memcpy(&single, from, 4), single;
      case BFLOAT16: {
        std::memcpy(&bits, from, 2);
        const std::uint32_t longer = std::uint32_t{bits} << 16;
        return std::memcpy(&single, &longer, 4), single;
      }
      default: return std::memcpy(&bits, from, 2), half(bits);
    }
  }
  // The value must be one of the type's.
  void set(Index i, double value) {
    char* to = bytes.get() + i * bytes_of(type);
    const float single = static_cast<float>(value);
    std::uint32_t bits;
    std::memcpy(&bits, &single, 4);
    if (type == FLOAT64) std::memcpy(to, &value, 8);
    if (type == FLOAT32) std::memcpy(to, &single, 4);
    if (type == BFLOAT16) bits >>= 16;
    if (type == FLOAT16) {
      int exponent;
      const int fraction = int(std::ldexp(std::fabs(std::frexp(value, &exponent)), 11));
      bits = (value < 0) << 15 | (fraction ? (exponent + 14) << 10 | (fraction & 1023) : 0);
    }
    if (bytes_of(type) == 2) std::memcpy(to, &bits, 2);
  }
  void fill_with_eighths() {
    for (Index i = 0; i < count; ++i) set(i, draw(-32, 32) / 8.0);
  }
  void fill_with_any_bits() {
    for (Index i = 0; i < count * bytes_of(type); ++i) bytes[i] = char(draw(0, 255));
  }
};

// ---- The definition, a channel at a time

struct Case {
  int type, threads;
  Index shape[5];
};

[[noreturn]] void fail(const Case& c, const char* what, Index at, double got, double expected) {
  const Index* s = c.shape;
  std::printf("%s differ at %ld: %.9g, expected %.9g; type %d, shape %ld %ld %ld %ld, groups %ld, %d threads\n", what,
              long(at), got, expected, c.type, long(s[0]), long(s[1]), long(s[2]), long(s[3]), long(s[4]), c.threads);
  std::exit(1);
}

void compare(const Case& c, const char* what, const Numbers& got, const std::vector<double>& expected) {
  // The rounding of the type that is written: most results are exact but for that.
  const double relative = got.type == FLOAT64 ? 1e-12 : got.type == FLOAT32 ? 1e-6 : got.type == BFLOAT16 ? 0x1p-8 : 0x1p-11;
  for (Index i = 0; i < got.count; ++i)
    if (!(std::fabs(got.get(i) - expected[i]) <= relative * std::fabs(expected[i]) + (got.type == FLOAT64 ? 1e-12 : 1e-6)))
      fail(c, what, i, got.get(i), expected[i]);
}

double draw_offset(int type, Index length) {
  switch (draw(0, 9)) {
    case 0: return pick<double>({NAN, INFINITY, -INFINITY, -0.0});
    case 1: return pick<double>({1e9, -1e9, 3e18, -3e18, 3e38, -3e38, 16777216, 2147483648.0, -2147483649.0});
    case 2: return type == FLOAT64 ? pick<double>({1e300, -1e300, -1e-300}) : pick<double>({-1e-9f, 1e-9f, -1e-40f});
    case 3: return double(draw(-length - 2, length + 2));          // about both ends, between no tokens
    case 4: return double(draw(-64 * length, 64 * length)) / 32;  // far outside, too
    default: return double(draw(-160, 160)) / 64;
  }
}

void run(const Case& c, bool wild) {
  const auto [batch, height, width, channels, groups] = c.shape;
  const Index tokens = batch * height * width, size = channels / groups;
  const int arithmetic = c.type == FLOAT64 ? FLOAT64 : FLOAT32;
  Numbers x(c.type, tokens * channels), offset(arithmetic, tokens * 2 * groups), sampled(c.type, tokens * 3 * channels);
  Numbers gradient(c.type, tokens * 3 * channels);
  Numbers x_gradient(arithmetic, tokens * channels), offset_gradient(arithmetic, tokens * 2 * groups);
  for (Index i = 0; i < offset.count; ++i)
    offset.set(i, draw_offset(arithmetic, i / groups % 2 ? height : width));
  x.fill_with_eighths();
  gradient.fill_with_eighths();
  if (wild) {
    x.fill_with_any_bits();
    gradient.fill_with_any_bits();
    offset.fill_with_any_bits();
  }

  std::vector<double> y(sampled.count), dx(x.count), d_offset(offset.count);
  for (Index token = 0; token < tokens && !wild; ++token)
    for (Index axis = 0; axis < 3; ++axis)
      for (Index channel = 0; channel < channels; ++channel) {
        const Index at = (token * 3 + axis) * channels + channel;
        const double g = gradient.get(at);
        if (axis == 2) {
          y[at] = x.get(token * channels + channel);
          dx[token * channels + channel] += g;
          continue;
        }
        const Index place = (token * 2 + axis) * groups + channel / size;
        const Index length = axis ? height : width, step = axis ? width : 1, t = token / step % length;
        const double whole = std::floor(offset.get(place)), fraction = offset.get(place) - whole;
        for (int k = 0; k < 2; ++k) {
          const double position = t + whole + k;
          if (!(position >= 0 && position < length)) continue;
          const Index other = (token + (Index(position) - t) * step) * channels + channel;
          const double weight = k ? fraction : 1 - fraction;
          y[at] += weight * x.get(other);
          dx[other] += weight * g;
          d_offset[place] += (k ? g : -g) * x.get(other);
        }
      }

  if (axial_sample_forward(c.type, c.shape, c.threads, x.bytes.get(), offset.bytes.get(), sampled.bytes.get()))
    fail(c, "forward: the status is not 0; results", 0, 0, 0);
  if (!wild) compare(c, "results", sampled, y);
  // The backward pass reads of them the map itself alone.
  for (Index token = 0; token < tokens; ++token)
    std::memset(sampled.bytes.get() + token * 3 * channels * bytes_of(c.type), 0xff, 2 * channels * bytes_of(c.type));
  if (axial_sample_backward(c.type, c.shape, c.threads, sampled.bytes.get(), offset.bytes.get(), gradient.bytes.get(),
                            x_gradient.bytes.get(), offset_gradient.bytes.get()))
    fail(c, "backward: the status is not 0; results", 0, 0, 0);
  if (wild) return;
  compare(c, "gradients of the map", x_gradient, dx);
  compare(c, "gradients of the offsets", offset_gradient, d_offset);
}

Case draw_case() {
  const auto extent = [] { return chance(12) ? 0 : chance(5) ? 1 : draw(2, 11); };
  Index height = extent(), width = extent();
  if (chance(40)) (chance(2) ? height : width) = draw(100, 400);  // a long line
  Index groups = draw(1, 5), size = chance(3) ? draw(1, 11) : pick<Index>({1, 2, 4, 8});
  if (chance(30)) groups = draw(10, 40);
  if (chance(50)) size = 0;
  return {int(draw(0, 3)), 1, {chance(20) ? 0 : draw(1, 3), height, width, groups * size, groups}};
}

int main(int, char** arguments) {
  const int cases = std::atoi(arguments[1]);
  generator.seed(std::strtoull(arguments[2], nullptr, 10));
  std::size_t before = 0;
  for (int i = 0; i < cases; ++i) {
    Case drawn = draw_case();
    drawn.threads = 1 + i * 4 / cases;  // changed three times only, as it takes long
    run(drawn, chance(5));
    if (i == cases - cases / 8) before = __sanitizer_get_current_allocated_bytes();
  }
  const std::size_t after = __sanitizer_get_current_allocated_bytes();
  if (after > before) {
    std::printf("%zu bytes were not freed\n", after - before);
    return 1;
  }
  std::printf("%d cases\n", cases);
}
