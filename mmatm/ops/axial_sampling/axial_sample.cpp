// Axial sampling on the CPU, forward and backward, behind a plain C interface: nothing here knows of PyTorch or Python.
//
// A line (a row for the width, a column for the height) is copied into a buffer with PADDING zero tokens at each end. A
// sample then reads two neighbouring tokens of the buffer wherever it lies: one outside is put on the padding. Lines are
// independent, so the backward pass adds up in a buffer of its own for each line and needs no atomics.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

namespace {

using Index = std::int64_t;

constexpr Index PADDING = 2;
// Neighbouring columns are read together: the values of one column alone are short pieces far apart.
constexpr Index COLUMNS = 4;

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

// ---- The S channels of a group, at once

// S as far as it is known when compiling; 0 stands for any.
template <typename A, Index kSize>
struct Group {
  typedef A Values __attribute__((vector_size(kSize * sizeof(A))));

  static Values load(const A* from) {
    Values values;
    std::memcpy(&values, from, sizeof values);
    return values;
  }
  static void store(Values values, A* to) { std::memcpy(to, &values, sizeof values); }

  static void blend(Index, const A* first, const A* second, A fraction, A* to) {
    store((1 - fraction) * load(first) + fraction * load(second), to);
  }
  // Adds to the gradients of both tokens and returns that of the position.
  static A spread(Index, const A* first, const A* second, A fraction, const A* gradient, A* to_first, A* to_second) {
    const Values g = load(gradient);
    const Values products = g * (load(second) - load(first));
    store(load(to_first) + (1 - fraction) * g, to_first);
    store(load(to_second) + fraction * g, to_second);
    A slope = 0;
    for (Index s = 0; s < kSize; ++s) slope += products[s];
    return slope;
  }
};

template <typename A>
struct Group<A, 0> {
  static void blend(Index size, const A* first, const A* second, A fraction, A* to) {
    for (Index s = 0; s < size; ++s) to[s] = (1 - fraction) * first[s] + fraction * second[s];
  }
  static A spread(Index size, const A* first, const A* second, A fraction, const A* gradient, A* to_first,
                  A* to_second) {
    A slope = 0;
    for (Index s = 0; s < size; ++s) {
      slope += gradient[s] * (second[s] - first[s]);
      to_first[s] += (1 - fraction) * gradient[s];
      to_second[s] += fraction * gradient[s];
    }
    return slope;
  }
};

// ---- One line

struct Shape {
  Index batch, height, width, channels, groups;
};

// Token t of lane k is token start + t * step + k of the map. A row has one lane, a block of columns one for each.
struct Line {
  Index start, step, length, lanes;
};

Index row_count(const Shape& shape) { return shape.batch * shape.height; }
Line row(const Shape& shape, Index number) { return {number * shape.width, 1, shape.width, 1}; }

Index blocks_of_columns(const Shape& shape) { return (shape.width + COLUMNS - 1) / COLUMNS; }
Index column_count(const Shape& shape) { return shape.batch * blocks_of_columns(shape); }
Line columns(const Shape& shape, Index number) {
  const Index sample = number / blocks_of_columns(shape), first = number % blocks_of_columns(shape) * COLUMNS;
  const Index lanes = std::min(COLUMNS, shape.width - first);
  return {sample * shape.height * shape.width + first, shape.width, shape.height, lanes};
}

// A thread's own memory: the padded line and its gradient, each (tokens, lanes, C), and what belongs to one token.
template <typename A>
struct Scratch {
  A *token, *fraction, *line, *line_gradient;
  std::int32_t* place;

  Scratch(const Shape& shape, char* memory) {
    place = reinterpret_cast<std::int32_t*>(memory);
    token = reinterpret_cast<A*>(memory + whole_lines(shape.groups * Index{sizeof(std::int32_t)}));
    fraction = token + shape.channels;
    line = fraction + shape.groups;
    line_gradient = line + line_values(shape);  // in the backward pass only
  }
  static Index line_values(const Shape& shape) {
    const Index row_tokens = shape.width + 2 * PADDING, column_tokens = (shape.height + 2 * PADDING) * COLUMNS;
    return std::max(row_tokens, column_tokens) * shape.channels;
  }
  static Index bytes(const Shape& shape, Index lines) {
    const Index values = shape.channels + shape.groups + lines * line_values(shape);
    return whole_lines(shape.groups * Index{sizeof(std::int32_t)}) + whole_lines(values * Index{sizeof(A)});
  }
  // Whole cache lines, of which none is shared by two threads.
  static Index whole_lines(Index bytes) { return (bytes + 127) / 64 * 64; }
};

template <typename T>
void read_line(const Shape& shape, const Line& line, const T* map, Index stride, const Scratch<Arithmetic<T>>& scratch) {
  const Index channels = shape.channels, slot = line.lanes * channels;
  auto* buffer = scratch.line;
  std::fill(buffer, buffer + PADDING * slot, 0);
  buffer += PADDING * slot;
  for (Index t = 0; t < line.length; ++t)
    for (Index k = 0; k < line.lanes; ++k, buffer += channels)
      widen_all(map + (line.start + t * line.step + k) * stride, buffer, channels);
  std::fill(buffer, buffer + PADDING * slot, 0);
}

// For each group of a token: where in the buffer its first token is, and the fraction of the way to the second.
template <typename A>
inline void locate(const A* __restrict__ offset, std::int32_t groups, std::int32_t size, Index token, Index length,
                   std::int32_t slot, std::int32_t* __restrict__ place, A* __restrict__ fraction) {
  for (std::int32_t g = 0; g < groups; ++g) {
    const A whole = std::floor(offset[g]);
    const A position = static_cast<A>(token) + whole;
    const bool inside = position >= A(-1) && position < static_cast<A>(length);  // false for NaN
    const std::int32_t number = static_cast<std::int32_t>(inside ? position : A(-PADDING)) + std::int32_t{PADDING};
    place[g] = number * slot + g * size;
    fraction[g] = inside ? offset[g] - whole : A(0);
  }
}

// Calls work(at, k) after locate() for every token: `at` is its number in the map, k its lane.
template <typename A, typename Work>
inline void for_each_token(const Shape& shape, const Line& line, const A* offset, const Scratch<A>& scratch,
                           const Work& work) {
  const Index size = shape.channels / shape.groups, slot = line.lanes * shape.channels;
  for (Index t = 0; t < line.length; ++t)
    for (Index k = 0; k < line.lanes; ++k) {
      const Index at = line.start + t * line.step + k;
      locate(offset + at * 2 * shape.groups, static_cast<std::int32_t>(shape.groups), static_cast<std::int32_t>(size), t,
             line.length, static_cast<std::int32_t>(slot), scratch.place, scratch.fraction);
      work(at, k);
    }
}

template <Index kSize, typename T>
void forward_line(const Shape& shape, const Line& line, const Arithmetic<T>* offset, T* sampled,
                  const Scratch<Arithmetic<T>>& scratch) {
  using A = Arithmetic<T>;
  const Index channels = shape.channels, groups = shape.groups, slot = line.lanes * channels;
  const Index size = kSize ? kSize : channels / groups;
  const std::int32_t* __restrict__ place = scratch.place;
  const A* __restrict__ fraction = scratch.fraction;
  for_each_token(shape, line, offset, scratch, [&](Index at, Index k) {
    T* token = sampled + at * 3 * channels;
    A* __restrict__ result = is_exact<T> ? reinterpret_cast<A*>(token) : scratch.token;
    const A* buffer = scratch.line + k * channels;
    for (Index g = 0; g < groups; ++g) {
      const A* first = buffer + place[g];
      Group<A, kSize>::blend(size, first, first + slot, fraction[g], result + g * size);
    }
    if constexpr (!is_exact<T>)
      for (Index c = 0; c < channels; ++c) narrow(result[c], token + c);
  });
}

template <Index kSize, typename T>
void backward_line(const Shape& shape, const Line& line, const Arithmetic<T>* offset, const T* gradient,
                   Arithmetic<T>* offset_gradient, const Scratch<Arithmetic<T>>& scratch) {
  using A = Arithmetic<T>;
  const Index channels = shape.channels, groups = shape.groups, slot = line.lanes * channels;
  const Index size = kSize ? kSize : channels / groups;
  const std::int32_t* __restrict__ place = scratch.place;
  const A* __restrict__ fraction = scratch.fraction;
  std::fill(scratch.line_gradient, scratch.line_gradient + (line.length + 2 * PADDING) * slot, A(0));
  for_each_token(shape, line, offset, scratch, [&](Index at, Index k) {
    const T* token = gradient + at * 3 * channels;
    if constexpr (!is_exact<T>) widen_all(token, scratch.token, channels);
    const A* __restrict__ given = is_exact<T> ? reinterpret_cast<const A*>(token) : scratch.token;
    const A* buffer = scratch.line + k * channels;
    A* sums = scratch.line_gradient + k * channels;
    A* __restrict__ slopes = offset_gradient + at * 2 * groups;
    for (Index g = 0; g < groups; ++g) {
      const A* first = buffer + place[g];
      A* to_first = sums + place[g];
      slopes[g] = Group<A, kSize>::spread(size, first, first + slot, fraction[g], given + g * size, to_first,
                                          to_first + slot);
    }
  });
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
  const Index channels = shape.channels, bytes = Scratch<A>::bytes(shape, 1);
  const Memory memory(bytes * threads);
  if (!memory.start) return 1;
#pragma omp parallel num_threads(threads)
  {
    const Scratch<A> scratch(shape, memory.start + bytes * omp_get_thread_num());
#pragma omp for schedule(static) nowait
    for (Index i = 0; i < row_count(shape); ++i) {
      const Line line = row(shape, i);
      read_line(shape, line, x, channels, scratch);
      for (Index at = line.start; at < line.start + line.length; ++at)
        std::memcpy(sampled + (at * 3 + 2) * channels, x + at * channels, channels * sizeof(T));
      forward_line<kSize>(shape, line, offset, sampled, scratch);
    }
#pragma omp for schedule(static)
    for (Index i = 0; i < column_count(shape); ++i) {
      const Line line = columns(shape, i);
      read_line(shape, line, x, channels, scratch);
      forward_line<kSize>(shape, line, offset + shape.groups, sampled + channels, scratch);
    }
  }
  return 0;
}

template <Index kSize, typename T>
int backward(const Shape& shape, int threads, const T* sampled, const Arithmetic<T>* offset, const T* gradient,
             Arithmetic<T>* x_gradient, Arithmetic<T>* offset_gradient) {
  using A = Arithmetic<T>;
  const Index channels = shape.channels, bytes = Scratch<A>::bytes(shape, 2);
  const T* x = sampled + 2 * channels;
  const Memory memory(bytes * threads);
  if (!memory.start) return 1;
#pragma omp parallel num_threads(threads)
  {
    const Scratch<A> scratch(shape, memory.start + bytes * omp_get_thread_num());
#pragma omp for schedule(static)
    for (Index i = 0; i < row_count(shape); ++i) {
      const Line line = row(shape, i);
      read_line(shape, line, x, 3 * channels, scratch);
      backward_line<kSize>(shape, line, offset, gradient, offset_gradient, scratch);
      for (Index t = 0; t < line.length; ++t) {
        const T* direct = gradient + ((line.start + t) * 3 + 2) * channels;
        const A* sums = scratch.line_gradient + (PADDING + t) * channels;
        A* __restrict__ to = x_gradient + (line.start + t) * channels;
        for (Index c = 0; c < channels; ++c) to[c] = sums[c] + widen(direct[c]);
      }
    }
    // The rows are all done here: the loop above ends in a barrier.
#pragma omp for schedule(static)
    for (Index i = 0; i < column_count(shape); ++i) {
      const Line line = columns(shape, i);
      const Index slot = line.lanes * channels;
      read_line(shape, line, x, 3 * channels, scratch);
      backward_line<kSize>(shape, line, offset + shape.groups, gradient + channels, offset_gradient + shape.groups,
                           scratch);
      for (Index t = 0; t < line.length; ++t) {
        const A* sums = scratch.line_gradient + (PADDING + t) * slot;
        A* __restrict__ to = x_gradient + (line.start + t * line.step) * channels;
        for (Index c = 0; c < slot; ++c) to[c] += sums[c];
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
