// y = x w for a packed weight w of 3, 4 or 8 bits and a few rows of x, on a CPU.
//
// Layout. A column of w is `groups` groups of `size` rows, a multiple of 64, and 64 rows are
//   4 bits  32 bytes: byte j holds row j in its low half, row j + 32 in its high half
//   3 bits  16 bytes: byte j holds the low two bits of rows j, j + 16, j + 32 and j + 48 from its
//           lowest on, then 8 bytes: the high bits, one after another
//   8 bits  64 bytes
// so that a shift and a mask give neighboring rows: 64 weights of 4 bits take two masks and a shift.
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

constexpr int Longest(int64_t bits) { return bits == 8 ? 2048 : 32768; }

// The sum of products of floats, in 8 parts so that it takes no longer than reading.
inline float Product(const float* a, const float* b, int64_t count) {
  float parts[8] = {}, sum = 0;
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int j = 0; j < 8; ++j) parts[j] += a[i + j] * b[i + j];
  }
  for (; i < count; ++i) sum += a[i] * b[i];
  for (float part : parts) sum += part;
  return sum;
}

struct Weight {
  const uint8_t* data;  // [columns, groups * size * bits / 8]
  const void* scale;    // [columns, groups], float16 or float32
  bool half;            // whether float16
  const uint8_t* zero;  // [columns, groups]
  int64_t columns, groups;
  int size;
};

// The scales of one column as floats [groups].
inline void Scales(const Weight& w, int64_t column, float* to) {
  if (!w.half) {
    std::memcpy(to, (const float*)w.scale + column * w.groups, w.groups * sizeof(float));
    return;
  }
  const uint16_t* from = (const uint16_t*)w.scale + column * w.groups;
  int64_t g = 0;
  for (; g + 8 <= w.groups; g += 8) EightFloats(from + g, to + g);
  for (; g < w.groups; ++g) to[g] = Float16(from[g]);
}

// Rows of x in integers X, made once for all columns.
template <typename X>
struct Rows {
  std::vector<X> q;         // [count, groups * size], 0 where rows fill the last group up
  std::vector<float> by;    // [count, groups]
  std::vector<float> sums;  // [count, groups], by times the sum of q
  int64_t count, length;

  // x: [count, rows]
  Rows(const float* x, int64_t count, int64_t rows, const Weight& w)
      : q(count * w.groups * w.size), by(count * w.groups), sums(by.size()), count(count),
        length(w.groups * w.size) {
    for (int64_t m = 0; m < count; ++m) {
      for (int64_t g = 0; g < w.groups; ++g) {
        int64_t from = g * w.size, some = std::min<int64_t>(w.size, rows - from);
        Round(x + m * rows + from, some, m * w.groups + g, &q[m * length + from]);
      }
    }
  }

 private:
  void Round(const float* x, int64_t size, int64_t group, X* codes) {
    constexpr float kMost = std::is_same_v<X, int8_t> ? 127 : 32767;
    float most = 0;
    for (int64_t k = 0; k < size; ++k) most = std::max(most, std::fabs(x[k]));
    float step = most > 0 ? most / kMost : 1, inverse = 1 / step;
    int64_t sum = 0;
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

// M rows of x from `row` on times N columns of w from `column` on. y: [rows, columns]. scratch:
// (N M + 1) groups floats.
template <int kBits, typename X, int M, int N>
inline void Block(const Rows<X>& x, const Weight& w, int64_t row, int64_t column, float* y,
                  float* scratch) {
  int64_t groups = w.groups, bytes = int64_t(w.size) * kBits / 8, stride = groups * bytes;
  const uint8_t* data = w.data + column * stride;
  const X* q = x.q.data() + row * x.length;
  float offset[N][M], *factors = scratch + groups;  // [N, M, groups]: what a sum is multiplied by
  for (int n = 0; n < N; ++n) {
    const uint8_t* zero = w.zero + (column + n) * groups;
    Scales(w, column + n, scratch);
    for (int m = 0; m < M; ++m) {
      const float* by = x.by.data() + (row + m) * groups;
      for (int64_t g = 0; g < groups; ++g) factors[(n * M + m) * groups + g] = scratch[g] * by[g];
    }
    for (int64_t g = 0; g < groups; ++g) scratch[g] *= zero[g];
    for (int m = 0; m < M; ++m) {
      offset[n][m] = Product(scratch, x.sums.data() + (row + m) * groups, groups);
    }
  }
  Floats total[N][M] = {};
  for (int64_t g = 0; g < groups; ++g, data += bytes, q += w.size) {
    // the same place of the next columns: what is nearer is on its way
    PACKED_UNROLL for (int n = 0; n < N; ++n) __builtin_prefetch(data + (n + N) * stride);
    Ints part[N][M] = {};
    for (int k = 0; k < w.size; k += 64) {
      PACKED_UNROLL for (int n = 0; n < N; ++n) {
        const uint8_t* at = data + n * stride + k * kBits / 8;
        Codes codes = kBits == 8 ? EightBits(at) : kBits == 4 ? FourBits(at) : ThreeBits(at);
        PACKED_UNROLL for (int m = 0; m < M; ++m) {
          part[n][m] = Dot(part[n][m], codes, q + m * x.length + k);
        }
      }
    }
    PACKED_UNROLL for (int n = 0; n < N; ++n) {
      PACKED_UNROLL for (int m = 0; m < M; ++m) {
        total[n][m] = Fma(part[n][m], factors[(n * M + m) * groups + g], total[n][m]);
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    for (int m = 0; m < M; ++m) {
      y[(row + m) * w.columns + column + n] = Sum(total[n][m]) - offset[n][m];
    }
  }
}

// Columns begin..end-1 of M rows of y.
template <int kBits, typename X, int M>
void Strip(const Rows<X>& x, const Weight& w, int64_t row, int64_t begin, int64_t end, float* y) {
  constexpr int N = M > 4 ? 2 : 4;  // what fits into registers
  std::vector<float> scratch((N * M + 1) * w.groups);
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

}  // namespace packed

#endif  // REDUCTION_PACKED_H_
