// In place of the compiler's own: AVX-512 in plain C, by SIMDe, for a processor that has none.

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
