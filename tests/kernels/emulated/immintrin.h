// In place of the compiler's own: AVX-512 in plain C, by SIMDe, and AMX below, for a processor that
// has none.

#pragma once
#define SIMDE_NO_NATIVE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <cstdint>
#include <cstring>

// Debian's SIMDe gives another function the name of this one, and lacks the next.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

inline simde__m512i _mm512_cvtepu8_epi16(simde__m256i bytes) {
  uint8_t from[32];
  uint16_t to[32];
  std::memcpy(from, &bytes, 32);
  for (int i = 0; i < 32; ++i) to[i] = from[i];
  simde__m512i found;
  std::memcpy(&found, to, 64);
  return found;
}

#ifdef __AMX_INT8__
// The unit by Intel's manual (volume 2, TILELOADD, TDPBSUD): eight registers of up to 16 rows of
// 64 bytes, which its configuration cuts.
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

namespace amx {

struct Config {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};
inline Config config{};
inline uint8_t registers[8][16][64];
inline int products = 0;

// What a processor would stop at.
inline void Must(bool good) {
  if (!good) std::abort();
}
inline void Load(int t, const void* from, int64_t stride) {
  Must(config.palette == 1 && config.rows[t] > 0);
  std::memset(registers[t], 0, sizeof registers[t]);
  for (int i = 0; i < config.rows[t]; ++i) {
    std::memcpy(registers[t][i], (const char*)from + i * stride, config.bytes[t]);
  }
}
inline void Store(int t, void* to, int64_t stride) {
  Must(config.palette == 1 && config.rows[t] > 0);
  for (int i = 0; i < config.rows[t]; ++i) {
    std::memcpy((char*)to + i * stride, registers[t][i], config.bytes[t]);
  }
}
// sums += a b, a of signed bytes, b of unsigned ones, four rows of b after another in each column.
inline void Product(int sums, int a, int b) {
  Must(config.palette == 1 && config.rows[sums] == config.rows[a]);
  Must(config.bytes[a] == 4 * config.rows[b] && config.bytes[sums] == config.bytes[b]);
  for (int m = 0; m < config.rows[sums]; ++m) {
    for (int n = 0; n < config.bytes[sums] / 4; ++n) {
      int32_t sum;
      std::memcpy(&sum, &registers[sums][m][4 * n], 4);
      for (int k = 0; k < config.bytes[a]; ++k) {
        sum += int8_t(registers[a][m][k]) * registers[b][k / 4][4 * n + k % 4];
      }
      std::memcpy(&registers[sums][m][4 * n], &sum, 4);
    }
  }
  ++products;
}
inline long Ask(long call, int what, int state) {
  return call == SYS_arch_prctl && what == 0x1023 && state == 18 ? 0 : -1;
}
struct Used {
  ~Used() { Must(products > 0 && config.palette == 0); }
};
inline Used used;

}  // namespace amx

#define syscall amx::Ask

inline void _tile_loadconfig(const void* from) { std::memcpy(&amx::config, from, 64); }
inline void _tile_release() { amx::config = {}; }
inline void _tile_zero(int t) { std::memset(amx::registers[t], 0, sizeof amx::registers[t]); }
#define _tile_loadd(t, from, stride) amx::Load(t, from, stride)
#define _tile_stored(t, to, stride) amx::Store(t, to, stride)
#define _tile_dpbsud(sums, a, b) amx::Product(sums, a, b)
#endif
