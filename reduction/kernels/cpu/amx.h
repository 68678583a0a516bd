// Sixteen rows of x times sixteen columns of w on the matrix unit of an x86 processor (AMX), where
// the system grants it. Included by packed.h; sums and ranges are those of `Tile` there.

#include <sys/syscall.h>
#include <unistd.h>

namespace packed {

constexpr int kBlock = 16;  // rows of x; and columns, of two tiles

// Asks Linux, once, for the state that the unit's registers take.
inline bool Granted() {
  constexpr int kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
  return granted;
}

// The unit as `Block` uses it while one lives: five registers of 16 rows of 64 bytes; for groups of
// 32 two of x that are half as wide and one of codes of half as many rows.
struct Unit {
  Unit() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } how;
    for (int i = 0; i < 8; ++i) how.bytes[i] = 64, how.rows[i] = 16;
    how.bytes[5] = how.bytes[6] = 32, how.rows[7] = 8;
    asm volatile("" ::: "memory");  // the intrinsics do not tell gcc what they read
    _tile_loadconfig(&how);
  }
  ~Unit() { _tile_release(); }
};

// The codes of 64 rows of a tile as the unit takes them: four rows of eight columns every 64 bytes.
template <int kBits>
inline void Turned(const uint8_t* data, uint8_t* to) {
  const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  const auto codes = Unpacked<kBits>(data);
  PACKED_UNROLL for (int i = 0; i < 8; ++i) {
    __m512i turned = _mm512_permutexvar_epi32(order, codes.v[i]);
    _mm256_storeu_si256((__m256i*)(to + 128 * i), _mm512_castsi512_si256(turned));
    _mm256_storeu_si256((__m256i*)(to + 128 * i + 64), _mm512_extracti64x4_epi64(turned, 1));
  }
}

// Rows row..row+15 of x times tiles tile and tile + 1 of w, or the last alone. y: [rows, columns].
template <int kBits, typename X>
inline void Block(const Rows<X>& x, const Weight& w, int64_t row, int64_t tile, float* y) {
  constexpr bool kHigh = sizeof(X) > 1;
  const int64_t groups = w.groups, column = tile * kTile, stride = x.length * sizeof(X);
  const int64_t some = std::min<int64_t>(kBlock, w.columns - column);
  const uint8_t* data = w.data + tile * w.Stride(kBits);
  const int8_t* q = (const int8_t*)(x.q.data() + row * x.length);
  alignas(64) uint8_t codes[16 * 64] = {};
  alignas(64) int32_t low[16][16], high[16][16];
  alignas(64) float total[16][16] = {}, scale[16] = {}, zero[16] = {};
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t t = 0; t * kTile < some; ++t) {
      const int64_t at = ((tile + t) * groups + g) * kTile;
      const Eight by =
          w.half ? Floats((const uint16_t*)w.scale + at) : Floats((const float*)w.scale + at);
      Put(by, scale + t * kTile);
      Put(Times(Floats(w.zero + at), by), zero + t * kTile);
    }
    for (int m = 0; m < kBlock; ++m) {
      const float sum = x.sums[(row + m) * groups + g];
      for (int n = 0; n < kBlock; ++n) total[m][n] -= zero[n] * sum;
    }
    for (int left = w.size; left > 0; left -= Longest(kBits)) {
      _tile_zero(0);
      _tile_zero(1);
      for (int k = std::min(left, Longest(kBits)); k > 0; k -= 64) {
        for (int64_t t = 0; t * kTile < some; ++t) {
          Turned<kBits>(data + t * w.Stride(kBits), codes + 32 * t);
        }
        asm volatile("" ::: "memory");
        if (w.size == 32) {
          const int64_t half = g % 2 * 32;
          _tile_loadd(7, codes + 16 * half, 64);
          _tile_loadd(5, q + half, stride);
          _tile_dpbsud(0, 5, 7);
          if constexpr (kHigh) {
            _tile_loadd(6, q + 64 + half, stride);
            _tile_dpbsud(1, 6, 7);
          }
          if (half == 0) continue;  // the other half is another group
        } else {
          _tile_loadd(4, codes, 64);
          _tile_loadd(2, q, stride);
          _tile_dpbsud(0, 2, 4);
          if constexpr (kHigh) {
            _tile_loadd(3, q + 64, stride);
            _tile_dpbsud(1, 3, 4);
          }
        }
        data += 64 * kBits, q += 64 * sizeof(X);
      }
      _tile_stored(0, low, 64);
      _tile_stored(1, high, 64);
      asm volatile("" ::: "memory");
      for (int m = 0; m < kBlock; ++m) {
        const float by = x.by[(row + m) * groups + g];
        for (int n = 0; n < kBlock; ++n) {
          total[m][n] += float(low[m][n] + 256 * high[m][n]) * (scale[n] * by);
        }
      }
    }
  }
  for (int m = 0; m < kBlock; ++m) {
    std::memcpy(y + (row + m) * w.columns + column, total[m], some * sizeof(float));
  }
}

// Columns begin..end-1 of as many blocks of 16 rows as x has from `row` on; the row after them.
template <int kBits, typename X>
int64_t Blocks(const Rows<X>& x, const Weight& w, int64_t row, int64_t begin, int64_t end,
               float* y) {
  if (x.count - row < kBlock || !Granted()) return row;
  const Unit unit;
  for (; row + kBlock <= x.count; row += kBlock) {
    for (int64_t n = begin; n < end; n += kBlock) Block<kBits, X>(x, w, row, n / kTile, y);
  }
  return row;
}

}  // namespace packed
