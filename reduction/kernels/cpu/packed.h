// y = x w for a packed weight w of 3, 4 or 8 bits and a few rows of x, on a CPU.
//
// Layout. A tile is eight columns of w; the last one is filled up. It is `groups` groups of `size`
// rows, a multiple of 64 or 32 (of these the last 64 rows may lack a half), and its codes of 64
// rows are vectors of 64 bytes, as many as a code has bits; byte 8 c + j is of column c, and of row
// 8 i + j
//   8 bits  in vector i
//   4 bits  in vector i / 2: its low half for even i, its high one for odd
//   3 bits  a, b, c: bits 0-2 and 3-5 of a are i = 0 and 1, of b 2 and 3, of c 4 and 5; bits 6 and
//           7 of a are the low two of i = 6, of b of 7; bits 6 and 7 of c their high ones
// so that a shift and a mask give what eight rows of x, the same for all columns, are multiplied
// by, and one stream of bytes is all that is read. A code c of group g stands for
// (c - zero[g]) scale[g].
//
// Each group of each row of x is rounded to integers, x = by q with by = max |x| / most, and the
// products of integers are summed exactly:
//   y[m][n] = sum_g scale[n][g] by[m][g] (sum_k q[m][k] c[k] - zero[n][g] sum_k q[m][k])
// A16: q of 16 bits, most 127 * 256 + 127, which is two signed bytes and finer than bfloat16 or
// float16 of what is near the largest of a group. A8: of 8 bits, most 127; not for codes of 8 bits.
// Ranges: codes of so many bits, zero 0..255, x finite. Sums are taken out of 32 bits before they
// overflow, after `Longest` rows. Scratch: `Rows`. Equal to the reference on the rounded x but for
// the order of float32 sums.

#ifndef REDUCTION_PACKED_H_
#define REDUCTION_PACKED_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#define PACKED_UNROLL _Pragma("GCC unroll 8")

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "avx.h"
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include "neon.h"
#else
#include "plain.h"
#endif

namespace packed {

constexpr int kTile = 8;          // columns
constexpr int64_t kAhead = 8192;  // bytes that are asked for before they are needed

// 255 * 32639 * 256 and 15 * 32639 * 4096 are below 2^31.
constexpr int Longest(int bits) { return bits == 8 ? 256 : 4096; }

struct Weight {
  const uint8_t* data;  // [tiles, Units(), bits, 64]
  const void* scale;    // [tiles, groups, 8], float16 or float32
  bool half;            // whether float16
  const uint8_t* zero;  // [tiles, groups, 8]
  int64_t columns, groups;
  int size;

  int64_t Units() const { return (groups * size + 63) / 64; }
  int64_t Stride(int bits) const { return Units() * 64 * bits; }  // bytes of a tile
};

// The largest |x|, 0 of none, NaN where one is not finite; in parts, which a compiler makes one
// vector of.
inline float Most(const float* x, int64_t size) {
  float parts[16] = {}, wrong[16] = {}, most = 0, lost = 0;
  int64_t k = 0;
  for (; k + 16 <= size; k += 16) {
    for (int j = 0; j < 16; ++j) {
      float here = std::fabs(x[k + j]);
      parts[j] = parts[j] > here ? parts[j] : here;
      wrong[j] += here * 0;  // a comparison forgets a NaN
    }
  }
  for (; k < size; ++k) most = std::max(most, std::fabs(x[k])), lost += x[k] * 0;
  for (int j = 0; j < 16; ++j) most = std::max(most, parts[j]), lost += wrong[j];
  return most + lost;
}

// 64 integers, 256 high + low, as 64 low bytes and 64 high ones, all signed.
inline void Halved(int16_t* x) {
  int8_t bytes[128];
  for (int i = 0; i < 64; ++i) {
    bytes[i] = int8_t(x[i]);
    bytes[64 + i] = int8_t((x[i] - bytes[i]) >> 8);
  }
  std::memcpy(x, bytes, 128);
}

// Rows of x in integers X, made once for all columns.
template <typename X>
struct Rows {
  std::vector<X> q;             // [count, length], 0 beyond the rows of w; 64 by 64 `Halved` where
                                // the processor takes them so
  std::vector<float> by, sums;  // [count, groups]; sums: by times the sum of q
  int64_t count, groups, length;

  // x: [count, rows]; bits: of the codes that they meet
  Rows(const float* x, int64_t count, int64_t rows, const Weight& w, int64_t bits)
      : q(count * w.Units() * 64), by(count * w.groups), sums(by.size()), count(count),
        groups(w.groups), length(w.Units() * 64) {
    for (int64_t m = 0; m < count; ++m) {
      for (int64_t g = 0; g < groups; ++g) {
        int64_t from = g * w.size, some = std::min<int64_t>(w.size, rows - from);
        Round(x + m * rows + from, some, m * groups + g, &q[m * length + from]);
      }
    }
    if constexpr (sizeof(X) > 1) {
      if (bits == 8 ? kHalved<8> : kHalved<4>) {
        for (int64_t i = 0; i < count * length; i += 64) Halved(&q[i]);
      }
    }
  }

 private:
  void Round(const float* x, int64_t size, int64_t group, X* codes) {
    constexpr float kMost = std::is_same_v<X, int8_t> ? 127 : 127 * 256 + 127;
    float most = Most(x, size), step = most == 0 ? 1 : most / kMost, inverse = 1 / step;
    int32_t sum = 0;
    for (int64_t k = 0; k < size; ++k) {
      float shifted = x[k] * inverse + 0x1.8p23f;  // its lowest bits are the nearest integer
      int32_t bits;
      std::memcpy(&bits, &shifted, 4);
      codes[k] = X(bits - 0x4b400000);
      sum += codes[k];
    }
    by[group] = step;
    sums[group] = step * sum;
  }
};

// Adds the products of M rows of x, `length` apart, with rows 8 kFrom to 8 kTo - 1 of 64 of a tile.
// Inlined, for else gcc keeps the sums of AVX2 in memory and takes twice as long.
template <int kFrom, int kTo, int kBits, typename X, int M>
__attribute__((always_inline)) inline void AddProducts(const uint8_t* data, const X* q,
                                                       int64_t length,
                                                       Sums<kBits, X, M> (&sums)[M][kParts]) {
  if constexpr (kFrom == 0) {
    PACKED_UNROLL for (int i = 0; i < kBits; ++i) __builtin_prefetch(data + 64 * i + kAhead);
  }
  PACKED_UNROLL for (int p = 0; p < kParts; ++p) {
    // what parts have in common would be kept where registers are too few: on the stack
    asm volatile("" ::: "memory");
    const auto codes = Unpacked<kBits, kFrom, kTo>(data + p * kPartBytes);
    PACKED_UNROLL for (int m = 0; m < M; ++m) Dot<kFrom, kTo>(sums[m][p], codes, q + m * length);
  }
}

// M rows of x from `row` on times a tile of w. y: [rows, columns].
template <int kBits, typename X, int M>
inline void Tile(const Rows<X>& x, const Weight& w, int64_t row, int64_t tile, float* y) {
  const int64_t groups = w.groups, length = x.length, first = tile * groups * kTile;
  const uint8_t* data = w.data + tile * w.Stride(kBits);
  const X* q = x.q.data() + row * length;
  // Loops are unrolled so that sums stay in registers.
  Eight total[M];
  PACKED_UNROLL for (int m = 0; m < M; ++m) total[m] = Zeros();
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t at = first + g * kTile, of_x = row * groups + g;
    const Eight scale =
        w.half ? Floats((const uint16_t*)w.scale + at) : Floats((const float*)w.scale + at);
    const Eight zero = Times(Floats(w.zero + at), scale);
    PACKED_UNROLL for (int m = 0; m < M; ++m) {
      total[m] = Less(total[m], zero, x.sums[of_x + m * groups]);
    }
    for (int left = w.size; left > 0; left -= Longest(kBits)) {
      Sums<kBits, X, M> sums[M][kParts] = {};
      int k = std::min(left, Longest(kBits));
      for (; k >= 64; k -= 64, data += 64 * kBits, q += 64) {
        AddProducts<0, 8>(data, q, length, sums);
      }
      if (k > 0 && g % 2 == 0) AddProducts<0, 4>(data, q, length, sums);
      if (k > 0 && g % 2 == 1) {
        AddProducts<4, 8>(data, q, length, sums);
        data += 64 * kBits, q += 64;
      }
      PACKED_UNROLL for (int m = 0; m < M; ++m) {
        const Eight by = Times(scale, x.by[of_x + m * groups]);
        total[m] = Added(total[m], InColumns(sums[m]), by);
      }
    }
  }
  const int64_t column = tile * kTile, some = std::min<int64_t>(kTile, w.columns - column);
  PACKED_UNROLL for (int m = 0; m < M; ++m) {
    float found[kTile];
    Put(total[m], found);
    std::memcpy(y + (row + m) * w.columns + column, found, some * sizeof(float));
  }
}

// Columns begin..end-1 of M rows of y.
template <int kBits, typename X, int M>
void Strip(const Rows<X>& x, const Weight& w, int64_t row, int64_t begin, int64_t end, float* y) {
  for (int64_t n = begin; n < end; n += kTile) Tile<kBits, X, M>(x, w, row, n / kTile, y);
}

}  // namespace packed

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__) && defined(__linux__)
#include "amx.h"
#else
namespace packed {
template <int kBits, typename X>
int64_t Blocks(const Rows<X>&, const Weight&, int64_t row, int64_t, int64_t, float*) {
  return row;
}
}  // namespace packed
#endif

namespace packed {

// Columns begin..end-1 of y, where begin is a multiple of 16, and end is or is all of w's.
template <int kBits, typename X>
void Columns(const Rows<X>& x, const Weight& w, int64_t begin, int64_t end, float* y) {
  int64_t row = Blocks<kBits, X>(x, w, 0, begin, end, y);
  for (; row + 8 <= x.count; row += 8) Strip<kBits, X, 8>(x, w, row, begin, end, y);
  for (; row + 4 <= x.count; row += 4) Strip<kBits, X, 4>(x, w, row, begin, end, y);
  for (; row + 2 <= x.count; row += 2) Strip<kBits, X, 2>(x, w, row, begin, end, y);
  for (; row < x.count; ++row) Strip<kBits, X, 1>(x, w, row, begin, end, y);
}

// All that there are, PACKED_COLUMNS(template) defines and PACKED_COLUMNS(extern template) names.
#define PACKED_COLUMNS(declared)                                                                  \
  declared void Columns<3, int8_t>(const Rows<int8_t>&, const Weight&, int64_t, int64_t, float*); \
  declared void Columns<4, int8_t>(const Rows<int8_t>&, const Weight&, int64_t, int64_t, float*); \
  declared void Columns<3, int16_t>(const Rows<int16_t>&, const Weight&, int64_t, int64_t,        \
                                    float*);                                                      \
  declared void Columns<4, int16_t>(const Rows<int16_t>&, const Weight&, int64_t, int64_t,        \
                                    float*);                                                      \
  declared void Columns<8, int16_t>(const Rows<int16_t>&, const Weight&, int64_t, int64_t, float*)

}  // namespace packed

#endif  // REDUCTION_PACKED_H_
