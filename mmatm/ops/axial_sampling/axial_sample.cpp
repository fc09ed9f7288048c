// Axial sampling on the CPU, forward and backward, behind a plain C interface: nothing here knows of PyTorch or Python.
//
// Tokens are read where they lie in the map, in its order: what a token needs of its row and of its column is near what
// the token before needed, and in the cache. The groups of a token are worked on side by side in one vector. Where one
// of them reads beyond the end of its line, which is rare, they are worked on one by one.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

namespace {

using Index = std::int64_t;

// ---- Types of storage. Arithmetic is in float, or in double where the map is in double.

struct BFloat16 {
  std::uint16_t bits;
};

struct Float16 {
  std::uint16_t bits;
};

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(BFloat16 value) { return bit_cast<float>(std::uint32_t{value.bits} << 16); }
inline float widen(Float16 value) {
  const std::uint32_t magnitude = (value.bits & 0x7fffu) << 13;
  // The product moves the exponent's bias from 15 to 127, for subnormal numbers too.
  const std::uint32_t finite = bit_cast<std::uint32_t>(bit_cast<float>(magnitude) * 0x1p112f);
  const std::uint32_t infinite = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // and NaN
  return bit_cast<float>(finite | infinite | (value.bits & 0x8000u) << 16);
}

// Both round to nearest, ties to even.
inline void narrow(float value, BFloat16* to) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  to->bits = static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0u);
}
inline void narrow(float value, Float16* to) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // The sum with 1/2 ends in the bits of the subnormal number, rounded.
  const std::uint32_t subnormal = bit_cast<std::uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  std::uint32_t half = magnitude < 113u << 23 ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;   // NaN
  to->bits = static_cast<std::uint16_t>(half | (bits >> 16 & 0x8000u));
}

template <typename T>
using Arithmetic = decltype(widen(T{}));

template <typename T>
constexpr bool is_exact = std::is_same<T, Arithmetic<T>>::value;

template <typename T>
inline void widen_all(const T* __restrict__ from, Arithmetic<T>* __restrict__ to, Index count) {
  for (Index i = 0; i < count; ++i) to[i] = widen(from[i]);
}

// ---- Vectors of 32 bytes: the S channels of as many groups as fit

template <typename A>
constexpr Index lanes = 32 / sizeof(A);

// How many groups fit; 0 where S is not known when compiling (kSize is 0) or is too large.
template <Index kSize, typename A>
constexpr Index together = kSize && kSize <= lanes<A> ? lanes<A> / kSize : 0;

template <typename A>
using Bits = std::conditional_t<sizeof(A) == 8, std::int64_t, std::int32_t>;

template <typename A>
struct Vector {
  typedef A Values __attribute__((vector_size(32)));
  typedef Bits<A> Masks __attribute__((vector_size(32)));
};
template <typename A>
using Values = typename Vector<A>::Values;
template <typename A>
using Masks = typename Vector<A>::Masks;

template <typename T>
inline Values<Arithmetic<T>> load(const T* from) {
  using A = Arithmetic<T>;
  A widened[lanes<A>];
  widen_all(from, widened, lanes<A>);
  Values<A> values;
  std::memcpy(&values, widened, sizeof values);
  return values;
}

template <typename A>
inline void store(Values<A> values, A* to) {
  std::memcpy(to, &values, sizeof values);
}

template <typename Unit>
inline Unit read(const void* from, Index number) {
  Unit value;
  std::memcpy(&value, static_cast<const char*>(from) + number * Index{sizeof value}, sizeof value);
  return value;
}

template <typename Unit, Index kEach, typename T, std::size_t... kNumbers>
inline auto side_by_side(const T* from, const std::int32_t* place, std::index_sequence<kNumbers...>) {
  typedef Unit Units __attribute__((vector_size(sizeof...(kNumbers) * sizeof(Unit))));
  return Units{read<Unit>(from + place[kNumbers / kEach], kNumbers % kEach)...};
}

// The channels of neighbouring groups, each group's from its own place.
template <Index kSize, typename T>
inline Values<Arithmetic<T>> gather(const T* from, const std::int32_t* place) {
  constexpr Index count = together<kSize, Arithmetic<T>>;
  if constexpr (count == 1) {
    return load(from + place[0]);
  } else {
    using Unit = std::conditional_t<kSize * sizeof(T) % 8 == 0, double, float>;
    constexpr Index each = kSize * sizeof(T) / sizeof(Unit);
    const auto units = side_by_side<Unit, each>(from, place, std::make_index_sequence<count * each>());
    T values[count * kSize];
    std::memcpy(values, &units, sizeof values);
    return load(values);
  }
}

template <Index kSize, typename V, typename E, std::size_t... kNumbers>
inline V repeat(const E* of_groups, std::index_sequence<kNumbers...>) {
  V values;
  std::memcpy(&values, of_groups, sizeof values);
#ifdef __clang__
  return __builtin_shufflevector(values, values, (kNumbers / kSize)...);
#else
  return __builtin_shuffle(values, Masks<E>{(kNumbers / kSize)...});
#endif
}

// What neighbouring groups have one of each, for all channels of each. A whole vector is read.
template <Index kSize, typename A>
inline Values<A> repeat(const A* of_groups) {
  return repeat<kSize, Values<A>>(of_groups, std::make_index_sequence<lanes<A>>());
}

// The values, and zeros for groups without.
template <Index kSize, typename A>
inline Values<A> where(const Bits<A>* has, Values<A> values) {
  return (Values<A>)(repeat<kSize, Masks<A>>(has, std::make_index_sequence<lanes<A>>()) & (Masks<A>)values);
}

template <Index kSize, typename A>
inline void add(const A* values, A* to) {
  typedef A Group __attribute__((vector_size(kSize * sizeof(A))));
  Group sum, term;
  std::memcpy(&sum, to, sizeof sum);
  std::memcpy(&term, values, sizeof term);
  sum += term;
  std::memcpy(to, &sum, sizeof sum);
}

// ---- What a token reads of its line: a row for the width, a column for the height

struct Shape {
  Index batch, height, width, channels, groups;
};

// A token's number on its line of `length` tokens, which lie `step` values apart.
struct Position {
  Index number, length, step;
};

// Each group reads two neighbouring tokens of the line. A thread's own memory.
template <typename A>
struct Reads {
  std::int32_t *first, *second;     // (G,), where the group's channels of these are, in values from the token itself
  A* fraction;                      // (G,), of the way from the first to the second
  Bits<A>*has_first, *has_second;   // (G,), none where it is not on the line, and its place that of another token
  A *values, *zeros, *unused;       // (C,)

  Reads(const Shape& shape, char* memory) {
    const Index groups = rounded(shape.groups), channels = rounded(shape.channels);
    first = reinterpret_cast<std::int32_t*>(memory);
    second = first + groups;
    fraction = reinterpret_cast<A*>(second + groups);
    has_first = reinterpret_cast<Bits<A>*>(fraction + groups);
    has_second = has_first + groups;
    values = reinterpret_cast<A*>(has_second + groups);
    zeros = values + channels;
    unused = zeros + channels;
    std::memset(memory, 0, bytes(shape));
  }
  static Index bytes(const Shape& shape) {
    return rounded(shape.groups) * Index{2 * sizeof(std::int32_t) + 3 * sizeof(A)} +
           rounded(shape.channels) * Index{3 * sizeof(A)};
  }
  // Whole cache lines, of which none is shared by two threads. From the last value on, a vector can be read.
  static Index rounded(Index count) { return (count + 31) / 16 * 16; }
};

// Sets what is read if all groups read two tokens of the line, as most tokens' do, and else returns false. The second
// tokens are a step from the first ones then.
template <typename A>
inline bool locate_inside(const A* __restrict__ offset, std::int32_t groups, std::int32_t size, const Position& at,
                          std::int32_t* __restrict__ first, A* __restrict__ fraction) {
  const A number = static_cast<A>(at.number), last = static_cast<A>(at.length - 1);
  const std::int32_t step = static_cast<std::int32_t>(at.step);
  std::int32_t all = 1;
  for (std::int32_t g = 0; g < groups; ++g) {
    const A whole = std::floor(offset[g]), position = number + whole;
    const std::int32_t inside = position >= A(0) && position < last;  // false for NaN
    first[g] = static_cast<std::int32_t>(inside ? whole : A(0)) * step + g * size;
    fraction[g] = offset[g] - whole;
    all &= inside;
  }
  return all;
}

// Sets what is read.
template <typename A>
inline void locate(const A* __restrict__ offset, std::int32_t groups, std::int32_t size, const Position& at,
                   std::int32_t* __restrict__ first, std::int32_t* __restrict__ second, A* __restrict__ fraction,
                   Bits<A>* __restrict__ has_first, Bits<A>* __restrict__ has_second) {
  const std::int32_t number = static_cast<std::int32_t>(at.number), length = static_cast<std::int32_t>(at.length);
  const std::int32_t step = static_cast<std::int32_t>(at.step);
  for (std::int32_t g = 0; g < groups; ++g) {
    const A whole = std::floor(offset[g]), position = static_cast<A>(number) + whole;
    const bool near = position >= A(-1) && position < static_cast<A>(length);  // false for NaN
    const std::int32_t token = static_cast<std::int32_t>(near ? position : A(-2));
    fraction[g] = near ? offset[g] - whole : A(0);
    has_first[g] = token >= 0 ? -1 : 0;
    has_second[g] = token >= -1 && token < length - 1 ? -1 : 0;
    first[g] = (std::max(token, 0) - number) * step + g * size;
    second[g] = (std::min(std::max(token + 1, 0), length - 1) - number) * step + g * size;
  }
}

// Calls work(from, to, inside) for groups: first for those that fill whole vectors, then for the rest one by one.
// `inside` is whether only first places and fractions are set.
template <Index kSize, typename A, typename Whole, typename Rest>
inline void read_groups(const Shape& shape, const A* offset, const Position& at, const Reads<A>& reads,
                        const Whole& whole, const Rest& rest) {
  const Index groups = shape.groups, size = kSize ? kSize : shape.channels / groups;
  const auto locate_all = [&] {
    locate(offset, groups, size, at, reads.first, reads.second, reads.fraction, reads.has_first, reads.has_second);
  };
  Index done = 0;
  if constexpr (constexpr Index count = together<kSize, A>; count > 0) {
    done = groups - groups % count;
    if (locate_inside(offset, done, kSize, at, reads.first, reads.fraction)) {
      for (Index g = 0; g < done; g += count) whole(g, std::true_type());
    } else {
      locate_all();
      for (Index g = 0; g < done; g += count) whole(g, std::false_type());
    }
  }
  if (done < groups) {
    locate_all();
    for (; done < groups; ++done) rest(done);
  }
}

template <Index kSize, typename T>
inline void sample(const Shape& shape, const T* x, const Position& at, const Arithmetic<T>* offset, T* to,
                   const Reads<Arithmetic<T>>& reads) {
  using A = Arithmetic<T>;
  const Index size = kSize ? kSize : shape.channels / shape.groups, step = at.step;
  A* result = is_exact<T> ? reinterpret_cast<A*>(to) : reads.values;
  read_groups<kSize>(
      shape, offset, at, reads,
      [=](Index g, auto inside) {
        auto first = gather<kSize>(x, reads.first + g);
        auto second = inside ? gather<kSize>(x + step, reads.first + g) : gather<kSize>(x, reads.second + g);
        if constexpr (!inside) {
          first = where<kSize, A>(reads.has_first + g, first);
          second = where<kSize, A>(reads.has_second + g, second);
        }
        const auto fraction = repeat<kSize>(reads.fraction + g);
        store<A>((1 - fraction) * first + fraction * second, result + g * kSize);
      },
      [=](Index g) {
        const T* zeros = reinterpret_cast<const T*>(reads.zeros);
        const T* first = reads.has_first[g] ? x + reads.first[g] : zeros;
        const T* second = reads.has_second[g] ? x + reads.second[g] : zeros;
        const A fraction = reads.fraction[g];
        for (Index s = 0; s < size; ++s)
          result[g * size + s] = (1 - fraction) * widen(first[s]) + fraction * widen(second[s]);
      });
  if constexpr (!is_exact<T>)
    for (Index c = 0; c < shape.channels; ++c) narrow(result[c], to + c);
}

// Adds to the gradient of x, whose tokens lie a third as far apart as those of x, and writes that of the offsets.
template <Index kSize, typename T>
inline void spread(const Shape& shape, const T* x, const Position& at, const Arithmetic<T>* offset, const T* gradient,
                   Arithmetic<T>* x_gradient, Arithmetic<T>* slope, const Reads<Arithmetic<T>>& reads) {
  using A = Arithmetic<T>;
  constexpr Index count = together<kSize, A>;
  const Index size = kSize ? kSize : shape.channels / shape.groups, step = at.step, third = at.step / 3;
  const auto in_x = [](Index place, Index within) { return static_cast<std::int32_t>(3 * place - 2 * within); };
  read_groups<kSize>(
      shape, offset, {at.number, at.length, third}, reads,
      [=](Index g, auto inside) {
        std::int32_t to_first_place[count], to_second_place[count], first_place[count], second_place[count];
        for (Index i = 0; i < count; ++i) {
          to_first_place[i] = reads.first[g + i];
          to_second_place[i] = inside ? to_first_place[i] + third : reads.second[g + i];
          first_place[i] = in_x(to_first_place[i], (g + i) * kSize);
          second_place[i] = inside ? first_place[i] + step : in_x(to_second_place[i], (g + i) * kSize);
        }
        const auto fraction = repeat<kSize>(reads.fraction + g), given = load(gradient + g * kSize);
        auto first = gather<kSize>(x, first_place);
        auto second = inside ? gather<kSize>(x + step, first_place) : gather<kSize>(x, second_place);
        auto to_first = (1 - fraction) * given, to_second = fraction * given;
        if constexpr (!inside) {
          first = where<kSize, A>(reads.has_first + g, first);
          second = where<kSize, A>(reads.has_second + g, second);
          to_first = where<kSize, A>(reads.has_first + g, to_first);
          to_second = where<kSize, A>(reads.has_second + g, to_second);
        }
        store<A>(given * (second - first), reads.values + g * kSize);
        A firsts[lanes<A>], seconds[lanes<A>];
        store<A>(to_first, firsts);
        store<A>(to_second, seconds);
        for (Index i = 0; i < count; ++i) {
          add<kSize>(firsts + i * kSize, x_gradient + to_first_place[i]);
          add<kSize>(seconds + i * kSize, x_gradient + to_second_place[i]);
        }
      },
      [=](Index g) {
        const T* zeros = reinterpret_cast<const T*>(reads.zeros);
        const bool has_first = reads.has_first[g], has_second = reads.has_second[g];
        const T* first = has_first ? x + in_x(reads.first[g], g * size) : zeros;
        const T* second = has_second ? x + in_x(reads.second[g], g * size) : zeros;
        A* to_first = has_first ? x_gradient + reads.first[g] : reads.unused;
        A* to_second = has_second ? x_gradient + reads.second[g] : reads.unused;
        const A fraction = reads.fraction[g];
        for (Index c = g * size, s = 0; s < size; ++s, ++c) {
          const A given = widen(gradient[c]);
          reads.values[c] = given * (widen(second[s]) - widen(first[s]));
          to_first[s] += (1 - fraction) * given;
          to_second[s] += fraction * given;
        }
      });
  for (Index g = 0; g < shape.groups; ++g) {
    A sum = 0;
    for (Index s = 0; s < size; ++s) sum += reads.values[g * size + s];
    slope[g] = sum;
  }
}

// ---- The whole map

// A block of memory for every thread, freed when it goes out of scope.
struct Memory {
  char* start;
  explicit Memory(Index bytes) : start(static_cast<char*>(std::malloc(bytes))) {}
  ~Memory() { std::free(start); }
};

template <Index kSize, typename T>
int forward(const Shape& shape, int threads, const T* x, const Arithmetic<T>* offset, T* sampled) {
  using A = Arithmetic<T>;
  const Index channels = shape.channels, bytes = Reads<A>::bytes(shape);
  const Memory memory(bytes * threads);
  if (!memory.start) return 1;
#pragma omp parallel num_threads(threads)
  {
    const Reads<A> reads(shape, memory.start + bytes * omp_get_thread_num());
#pragma omp for schedule(static)
    for (Index row = 0; row < shape.batch * shape.height; ++row)
      for (Index column = 0; column < shape.width; ++column) {
        const Index token = row * shape.width + column;
        const T* own = x + token * channels;
        const A* offsets = offset + token * 2 * shape.groups;
        T* to = sampled + token * 3 * channels;
        sample<kSize>(shape, own, {column, shape.width, channels}, offsets, to, reads);
        sample<kSize>(shape, own, {row % shape.height, shape.height, shape.width * channels}, offsets + shape.groups,
                      to + channels, reads);
        std::memcpy(to + 2 * channels, own, channels * sizeof(T));
      }
  }
  return 0;
}

template <Index kSize, typename T>
int backward(const Shape& shape, int threads, const T* sampled, const Arithmetic<T>* offset, const T* gradient,
             Arithmetic<T>* x_gradient, Arithmetic<T>* offset_gradient) {
  using A = Arithmetic<T>;
  const Index channels = shape.channels, groups = shape.groups, bytes = Reads<A>::bytes(shape);
  const Index width = shape.width, height = shape.height;
  // No two threads add to one column: each has strips of them.
  const Index strips = std::min<Index>(width, 1 + 4 * threads / std::max<Index>(shape.batch, 1));
  const Memory memory(bytes * threads);
  if (!memory.start) return 1;
#pragma omp parallel num_threads(threads)
  {
    const Reads<A> reads(shape, memory.start + bytes * omp_get_thread_num());
#pragma omp for schedule(static)
    for (Index row = 0; row < shape.batch * height; ++row) {
      for (Index token = row * width; token < (row + 1) * width; ++token)
        for (Index c = 0; c < channels; ++c)
          x_gradient[token * channels + c] = widen(gradient[(token * 3 + 2) * channels + c]);
      for (Index column = 0; column < width; ++column) {
        const Index token = row * width + column;
        spread<kSize>(shape, sampled + (token * 3 + 2) * channels, {column, width, 3 * channels},
                      offset + token * 2 * groups, gradient + token * 3 * channels, x_gradient + token * channels,
                      offset_gradient + token * 2 * groups, reads);
      }
    }
    // The rows are all done here: the loop above ends in a barrier.
#pragma omp for schedule(static)
    for (Index i = 0; i < shape.batch * strips; ++i) {
      const Index sample = i / strips, strip = i % strips;
      for (Index row = 0; row < height; ++row)
        for (Index column = strip * width / strips; column < (strip + 1) * width / strips; ++column) {
          const Index token = (sample * height + row) * width + column;
          spread<kSize>(shape, sampled + (token * 3 + 2) * channels, {row, height, width * 3 * channels},
                        offset + (token * 2 + 1) * groups, gradient + (token * 3 + 1) * channels,
                        x_gradient + token * channels, offset_gradient + (token * 2 + 1) * groups,
                        reads);
        }
    }
  }
  return 0;
}

// ---- From numbers to types

enum Type { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };

template <Index kSize>
struct Size {
  static constexpr Index value = kSize;
};

// Calls run(T{}, Size<S>{}); 2, 4 and 8 are the sizes of the published networks.
template <typename Run>
int with_types(int type, const Shape& shape, const Run& run) {
  const auto with_size = [&](auto element) {
    switch (shape.channels / shape.groups) {
      case 2: return run(element, Size<2>{});
      case 4: return run(element, Size<4>{});
      case 8: return run(element, Size<8>{});
      default: return run(element, Size<0>{});
    }
  };
  switch (type) {
    case FLOAT32: return with_size(float{});
    case FLOAT64: return with_size(double{});
    case BFLOAT16: return with_size(BFloat16{});
    case FLOAT16: return with_size(Float16{});
    default: return 2;
  }
}

}  // namespace

// Arrays are contiguous; T is the type of `type`, A is float, or double where T is double. shape: B, H, W, C, G.
// Returns 0, 1 if memory is short, 2 if the type is unknown.
#define EXPORT extern "C" __attribute__((visibility("default")))

// By which a library built from another version of this file is told.
EXPORT const std::uint32_t source_crc;
const std::uint32_t source_crc = SOURCE_CRC;

// x (B, H, W, C) of T, offset (B, H, W, 2G) of A -> sampled (B, H, W, 3C) of T: x_w, x_h and x itself.
EXPORT int axial_sample_forward(int type, const Index* shape, int threads, const void* x, const void* offset,
                                void* sampled) {
  const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4]};
  return with_types(type, s, [&](auto element, auto size) {
    using T = decltype(element);
    return forward<decltype(size)::value, T>(s, threads, static_cast<const T*>(x),
                                             static_cast<const Arithmetic<T>*>(offset), static_cast<T*>(sampled));
  });
}

// sampled and its gradient (B, H, W, 3C) of T, offset (B, H, W, 2G) of A -> the gradients of x and offset, both of A.
EXPORT int axial_sample_backward(int type, const Index* shape, int threads, const void* sampled, const void* offset,
                                 const void* gradient, void* x_gradient, void* offset_gradient) {
  const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4]};
  return with_types(type, s, [&](auto element, auto size) {
    using T = decltype(element);
    using A = Arithmetic<T>;
    return backward<decltype(size)::value, T>(s, threads, static_cast<const T*>(sampled),
                                              static_cast<const A*>(offset), static_cast<const T*>(gradient),
                                              static_cast<A*>(x_gradient), static_cast<A*>(offset_gradient));
  });
}
