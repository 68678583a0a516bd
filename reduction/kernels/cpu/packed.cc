// y = x w for a packed weight w of 3 or 4 bits and a few rows of x, on a CPU.
//
// Layout. A column of w is `groups` groups of `size` rows (a multiple of 64), each packed by itself:
//   4 bits  byte j holds row j in its low half, row j + size / 2 in its high half
//   3 bits  size / 4 bytes: byte j holds the low two bits of rows j + i size / 4 at 2 i, then
//           size / 8 bytes: byte j holds the high bits of rows j + i size / 8 at i
// so that one shift and one mask give neighboring rows. A code c of group g stands for
// (c - zero[g]) scale[g].
//
// Ranges: codes 0..15 or 0..7, zero 0..255, x any floats; sums in float32, in the order of rows.
// The zero points take one product a group, with sums of x that the caller gives:
//   y[m][n] = sum_g scale[n][g] (sum_k x[m][k] c[k] - zero[n][g] sums[m][g])
// Scratch: none. Equal to the reference but for the order of float32 sums.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

#if defined(__AVX2__) && defined(__FMA__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace ffi = xla::ffi;

namespace {

constexpr int kWide = 16;  // floats at a time
constexpr int kRows = 8;   // rows of x at a time
typedef float Floats __attribute__((vector_size(4 * kWide), aligned(4)));
typedef uint8_t Bytes __attribute__((vector_size(kWide), aligned(1)));

inline Bytes Load(const uint8_t* at) {
  Bytes bytes;
  std::memcpy(&bytes, at, sizeof bytes);
  return bytes;
}

inline Floats Load(const float* at) {
  Floats floats;
  std::memcpy(&floats, at, sizeof floats);
  return floats;
}

// Bytes as floats.
inline Floats Converted(Bytes bytes) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)bytes));
#elif defined(__AVX2__) && defined(__FMA__)
  __m128i b = (__m128i)bytes;
  __m256 half[2] = {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)),
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(b, 8)))};
  Floats floats;
  std::memcpy(&floats, half, sizeof floats);
  return floats;
#elif defined(__ARM_NEON)
  uint8x16_t b = (uint8x16_t)bytes;
  uint16x8_t low = vmovl_u8(vget_low_u8(b)), high = vmovl_u8(vget_high_u8(b));
  float32x4_t part[4] = {
      vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
      vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))};
  Floats floats;
  std::memcpy(&floats, part, sizeof floats);
  return floats;
#else
  return __builtin_convertvector(bytes, Floats);
#endif
}

inline float Sum(Floats floats) {
  float sum = 0;
  for (int i = 0; i < kWide; ++i) sum += floats[i];
  return sum;
}

// Adds to total[m] the products of the codes of 16 rows with x[m], rows of stride `next`.
template <int M>
inline void Add(Bytes codes, const float* x, int64_t next, Floats* total) {
  Floats w = Converted(codes);
  for (int m = 0; m < M; ++m) total[m] += w * Load(x + m * next);
}

// One group of a column. x: of its first row.
template <int kBits, int M>
inline void Group(const uint8_t* data, const float* x, int64_t next, int size, Floats* total) {
  if (kBits == 4) {
    int half = size / 2;
    for (int j = 0; j < half; j += kWide) {
      Bytes both = Load(data + j);
      Add<M>(both & 15, x + j, next, total);
      Add<M>(both >> 4, x + half + j, next, total + M);
    }
    return;
  }
  int quarter = size / 4, eighth = size / 8;
  const uint8_t* high = data + quarter;
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < quarter; j += kWide) {
      Bytes of_high;  // 8 neighboring rows have their bits in as many bytes, at one place
      if (eighth % kWide == 0) {
        of_high = Load(high + j % eighth) >> (2 * i + j / eighth);
      } else {
        uint64_t words[2];
        for (int h = 0, k = j; h < 2; ++h, k += 8) {
          std::memcpy(&words[h], high + k % eighth, 8);
          words[h] >>= 2 * i + k / eighth;
        }
        std::memcpy(&of_high, words, sizeof words);
      }
      Bytes low = (Load(data + j) >> (2 * i)) & 3;
      Add<M>(low | ((of_high & 1) << 2), x + i * quarter + j, next, total + (i % 2) * M);
    }
  }
}

struct Product {
  const float* x;        // [rows, groups * size]
  const float* sums;     // [rows, groups]
  const uint8_t* data;   // [columns, groups * size * bits / 8]
  const float* scale;    // [columns, groups]
  const uint8_t* zero;   // [columns, groups]
  float* y;              // [rows, columns]
  int64_t rows, columns, groups;
  int size;
};

template <int kBits, int M>
void Columns(const Product& p, int64_t row, int64_t begin, int64_t end) {
  int64_t next = p.groups * p.size, bytes = p.size * kBits / 8;
  const float* x = p.x + row * next;
  for (int64_t n = begin; n < end; ++n) {
    Floats total[M] = {};
    float offset[M] = {};
    const uint8_t* data = p.data + n * p.groups * bytes;
    for (int64_t g = 0; g < p.groups; ++g) {
      __builtin_prefetch(data + (g + 16) * bytes);
      Floats sums[2 * M] = {};  // two of each, so that none waits for the one before
      Group<kBits, M>(data + g * bytes, x + g * p.size, next, p.size, sums);
      float scale = p.scale[n * p.groups + g], zero = p.zero[n * p.groups + g];
      for (int m = 0; m < M; ++m) {
        total[m] += scale * (sums[m] + sums[M + m]);
        offset[m] += scale * zero * p.sums[(row + m) * p.groups + g];
      }
    }
    for (int m = 0; m < M; ++m) p.y[(row + m) * p.columns + n] = Sum(total[m]) - offset[m];
  }
}

template <int kBits>
void Columns(const Product& p, int64_t begin, int64_t end) {
  for (int64_t row = 0; row < p.rows; row += kRows) {
    switch (p.rows - row) {
      case 1: Columns<kBits, 1>(p, row, begin, end); break;
      case 2: Columns<kBits, 2>(p, row, begin, end); break;
      case 3: Columns<kBits, 3>(p, row, begin, end); break;
      case 4: Columns<kBits, 4>(p, row, begin, end); break;
      case 5: Columns<kBits, 5>(p, row, begin, end); break;
      case 6: Columns<kBits, 6>(p, row, begin, end); break;
      case 7: Columns<kBits, 7>(p, row, begin, end); break;
      default: Columns<kBits, 8>(p, row, begin, end); break;
    }
  }
}

// Runs work(begin, end) over parts of 0..count on the threads of XLA's pool and this one. Waits for
// parts, not for tasks: a task that starts late finds nothing left and touches nothing.
template <typename Work>
void Parallel(ffi::ThreadPool& pool, int64_t count, Work work) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all;
  };
  int64_t threads = pool.num_threads();
  int64_t part = std::max<int64_t>(16, (count + 4 * threads - 1) / (4 * threads));
  int64_t parts = (count + part - 1) / part;
  auto state = std::make_shared<State>();
  auto run = [state, part, parts, count, work] {
    for (int64_t i; (i = state->next++) < parts;) {
      work(i * part, std::min(count, (i + 1) * part));
      if (++state->done == parts) {
        std::lock_guard<std::mutex> lock(state->mutex);
        state->all.notify_one();
      }
    }
  };
  for (int64_t i = 1; i < std::min(threads, parts); ++i) pool.Schedule(decltype(run)(run));
  run();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all.wait(lock, [&] { return state->done == parts; });
}

ffi::Error Packed(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> sums,
                  ffi::Buffer<ffi::U8> data, ffi::Buffer<ffi::F32> scale,
                  ffi::Buffer<ffi::U8> zero, ffi::ResultBuffer<ffi::F32> y, int64_t bits,
                  int64_t size) {
  auto shape = x.dimensions(), of_scale = scale.dimensions(), of_data = data.dimensions();
  Product p{x.typed_data(),     sums.typed_data(), data.typed_data(), scale.typed_data(),
            zero.typed_data(),  y->typed_data(),   shape[0],          of_scale[0],
            of_scale[1],        static_cast<int>(size)};
  if ((bits != 3 && bits != 4) || size % 64 || shape[1] != p.groups * size ||
      of_data[1] != p.groups * size * bits / 8) {
    return ffi::Error::InvalidArgument("packed product: shapes do not fit");
  }
  Parallel(pool, p.columns, [p, bits](int64_t begin, int64_t end) {
    bits == 4 ? Columns<4>(p, begin, end) : Columns<3>(p, begin, end);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(PackedProduct, Packed,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("size"));
