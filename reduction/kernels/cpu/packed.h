// y = x w for a packed weight w of 3, 4 or 8 bits and a few rows of x, on a CPU.
//
// Layout. A column of w is `groups` groups of `size` rows, a multiple of 64, and 64 rows are
//   4 bits  32 bytes: byte j holds row j in its low half, row j + 32 in its high half
//   3 bits  16 bytes: byte j holds the low two bits of rows j, j + 16, j + 32 and j + 48 from its
//           lowest on, then 8 bytes: the high bits, one after another
//   8 bits  64 bytes
// so that a shift and a mask give neighboring rows: 64 weights of 4 bits take two masks, one shift.
// A code c of group g stands for (c - zero[g]) scale[g].
//
// Each group of each row of x is rounded to integers, x = by q with by = max |x| / most, and the
// products of integers are summed exactly:
//   y[m][n] = sum_g scale[n][g] by[m][g] (sum_k q[m][k] c[k] - zero[n][g] sum_k q[m][k])
// A16: q of 16 bits, most 32767, finer than bfloat16 or float16 of what is near the largest of a
// group. A8: of 8 bits, most 127; not for codes of 8 bits.
// Ranges: codes of so many bits, zero 0..255, x finite, size up to Longest so that no sum overflows
// 32 bits. Scratch: `Rows`. Equal to the reference on the rounded x but for the order of float32
// sums.

#ifndef REDUCTION_PACKED_H_
#define REDUCTION_PACKED_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "avx.h"
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include "neon.h"
#else
#include "plain.h"
#endif

#define PACKED_UNROLL _Pragma("GCC unroll 8")

namespace packed {

constexpr int64_t kAhead = 4096;  // bytes that are asked for before they are needed

constexpr int Longest(int64_t bits) { return bits == 8 ? 2048 : 32768; }

struct Weight {
  const uint8_t* data;  // [columns, groups * size * bits / 8]
  const void* scale;    // [columns, groups], float16 or float32
  bool half;            // whether float16
  const uint8_t* zero;  // [columns, groups]
  int64_t columns, groups;
  int size;
};

// The scales and zero points of eight groups from `group` on of a column, those of the next column
// where it has no more, 0 where there is none.
inline void EightGroups(const Weight& w, int64_t column, int64_t group, float* scale, float* zero) {
  int64_t at = column * w.groups + group, left = std::min<int64_t>(w.columns * w.groups - at, 8);
  int64_t step = w.half ? 2 : 4;
  const char* scales = (const char*)w.scale + at * step;
  const uint8_t* zeros = w.zero + at;
  char some_scales[32] = {};
  uint8_t some_zeros[8] = {};
  if (left < 8) {
    scales = (const char*)std::memcpy(some_scales, scales, left * step);
    zeros = (const uint8_t*)std::memcpy(some_zeros, zeros, left);
  }
  if (w.half) {
    EightFloats((const uint16_t*)scales, scale);
  } else {
    std::memcpy(scale, scales, 32);
  }
  EightBytes(zeros, zero);
}

// The largest |x|, 0 of none; in parts, which a compiler makes one vector of.
inline float Most(const float* x, int64_t size) {
  float parts[16] = {}, most = 0;
  int64_t k = 0;
  for (; k + 16 <= size; k += 16) {
    for (int j = 0; j < 16; ++j) {
      float here = std::fabs(x[k + j]);
      parts[j] = parts[j] > here ? parts[j] : here;
    }
  }
  for (; k < size; ++k) most = std::max(most, std::fabs(x[k]));
  for (float part : parts) most = std::max(most, part);
  return most;
}

// The codes of 64 rows.
template <int kBits>
inline auto Unpacked(const uint8_t* at) {
  if constexpr (kBits == 8) {
    return EightBits(at);
  } else if constexpr (kBits == 4) {
    return FourBits(at);
  } else {
    return ThreeBits(at);
  }
}

// Rows of x in integers X, made once for all columns.
template <typename X>
struct Rows {
  std::vector<X> q;         // [count, groups * size], 0 where rows fill the last group up; 64 by 64
                            // as `Arrange` puts them
  int64_t padded;           // groups, rounded up to a multiple of 8
  std::vector<float> by;    // [count, padded]
  std::vector<float> sums;  // [count, padded], by times the sum of q
  int64_t count, length;

  // x: [count, rows]; bits: of the codes that they meet
  Rows(const float* x, int64_t count, int64_t rows, const Weight& w, int64_t bits)
      : q(count * w.groups * w.size), padded((w.groups + 7) / 8 * 8), by(count * padded),
        sums(by.size()), count(count), length(w.groups * w.size) {
    for (int64_t m = 0; m < count; ++m) {
      for (int64_t g = 0; g < w.groups; ++g) {
        int64_t from = g * w.size, some = std::min<int64_t>(w.size, rows - from);
        Round(x + m * rows + from, some, m * padded + g, &q[m * length + from]);
      }
    }
    if constexpr (sizeof(X) > 1) {
      for (int64_t i = 0; bits < 8 && i < count * length; i += 64) Arrange(&q[i]);
    }
  }

 private:
  void Round(const float* x, int64_t size, int64_t group, X* codes) {
    constexpr float kMost = std::is_same_v<X, int8_t> ? 127 : 32767;
    float most = Most(x, size), step = most > 0 ? most / kMost : 1, inverse = 1 / step;
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

// M rows of x from `row` on times N columns of w from `column` on. y: [rows, columns]. factors:
// scratch [N, M, padded], what the sum of a group is multiplied by.
template <int kBits, typename X, int M, int N>
inline void Block(const Rows<X>& x, const Weight& w, int64_t row, int64_t column, float* y,
                  float* factors) {
  int64_t groups = w.groups, bytes = int64_t(w.size) * kBits / 8, stride = groups * bytes;
  int64_t ahead = std::max(kAhead, N * stride);
  const uint8_t* data = w.data + column * stride;
  const X* q = x.q.data() + row * x.length;
  // What the zero points take away, in parts, comes first. Loops are unrolled so that sums stay in
  // registers: through memory, a group would wait for the one before.
  Floats total[N][M];
  PACKED_UNROLL for (int n = 0; n < N; ++n) {
    float offset[M][8];
    PACKED_UNROLL for (int m = 0; m < M; ++m) {
      for (int j = 0; j < 8; ++j) offset[m][j] = 0;
    }
    for (int64_t g = 0; g < x.padded; g += 8) {
      float scale[8], zero[8], factor[8];
      EightGroups(w, column + n, g, scale, zero);
      for (int j = 0; j < 8; ++j) zero[j] *= scale[j];
      PACKED_UNROLL for (int m = 0; m < M; ++m) {
        const int64_t at = (row + m) * x.padded + g;
        const float *by = &x.by[at], *sums = &x.sums[at];
        for (int j = 0; j < 8; ++j) factor[j] = scale[j] * by[j];
        for (int j = 0; j < 8; ++j) offset[m][j] -= zero[j] * sums[j];
        std::memcpy(factors + (n * M + m) * x.padded + g, factor, 32);
      }
    }
    PACKED_UNROLL for (int m = 0; m < M; ++m) total[n][m] = First(offset[m]);
  }
  for (int64_t g = 0; g < groups; ++g, data += bytes, q += w.size) {
    // what follows so far behind, of these columns and then of the next
    PACKED_UNROLL for (int n = 0; n < N; ++n) __builtin_prefetch(data + n * stride + ahead);
    Ints part[N][M];
    PACKED_UNROLL for (int n = 0; n < N; ++n) {
      PACKED_UNROLL for (int m = 0; m < M; ++m) part[n][m] = Ints{};
    }
    for (int k = 0; k < w.size; k += 64) {
      PACKED_UNROLL for (int n = 0; n < N; ++n) {
        const uint8_t* at = data + n * stride + k * kBits / 8;
        auto codes = Unpacked<kBits>(at);
        PACKED_UNROLL for (int m = 0; m < M; ++m) {
          part[n][m] = Dot(part[n][m], codes, q + m * x.length + k);
        }
      }
    }
    PACKED_UNROLL for (int n = 0; n < N; ++n) {
      PACKED_UNROLL for (int m = 0; m < M; ++m) {
        total[n][m] = Fma(part[n][m], factors[(n * M + m) * x.padded + g], total[n][m]);
      }
    }
  }
  PACKED_UNROLL for (int n = 0; n < N; ++n) {
    PACKED_UNROLL for (int m = 0; m < M; ++m) {
      y[(row + m) * w.columns + column + n] = Sum(total[n][m]);
    }
  }
}

// Columns begin..end-1 of M rows of y.
template <int kBits, typename X, int M>
void Strip(const Rows<X>& x, const Weight& w, int64_t row, int64_t begin, int64_t end, float* y) {
  constexpr int N = std::max(1, std::min(4, kSums / M));
  std::vector<float> scratch(N * M * x.padded);
  int64_t n = begin;
  for (; n + N <= end; n += N) Block<kBits, X, M, N>(x, w, row, n, y, scratch.data());
  for (; n < end; ++n) Block<kBits, X, M, 1>(x, w, row, n, y, scratch.data());
}

// Columns begin..end-1 of y.
template <int kBits, typename X>
void Columns(const Rows<X>& x, const Weight& w, int64_t begin, int64_t end, float* y) {
  int64_t row = 0;
  for (; row + 8 <= x.count; row += 8) Strip<kBits, X, 8>(x, w, row, begin, end, y);
  for (; row + 4 <= x.count; row += 4) Strip<kBits, X, 4>(x, w, row, begin, end, y);
  for (; row + 2 <= x.count; row += 2) Strip<kBits, X, 2>(x, w, row, begin, end, y);
  for (; row < x.count; ++row) Strip<kBits, X, 1>(x, w, row, begin, end, y);
}

// All that there are, PACKED_COLUMNS(template) defines and PACKED_COLUMNS(extern template) names.
#define PACKED_COLUMNS(declared)                                                              \
  declared void Columns<3, int8_t>(const Rows<int8_t>&, const Weight&, int64_t, int64_t, float*); \
  declared void Columns<4, int8_t>(const Rows<int8_t>&, const Weight&, int64_t, int64_t, float*); \
  declared void Columns<3, int16_t>(const Rows<int16_t>&, const Weight&, int64_t, int64_t,    \
                                    float*);                                                  \
  declared void Columns<4, int16_t>(const Rows<int16_t>&, const Weight&, int64_t, int64_t,    \
                                    float*);                                                  \
  declared void Columns<8, int16_t>(const Rows<int16_t>&, const Weight&, int64_t, int64_t, float*)

}  // namespace packed

#endif  // REDUCTION_PACKED_H_
