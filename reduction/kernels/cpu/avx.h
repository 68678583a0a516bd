// What `packed.h` needs of a processor, on x86 with AVX2 and FMA, better with AVX-512 and VNNI.

#include <immintrin.h>

namespace packed {

// The codes of 64 rows, those of 32 a vector.
struct Codes {
  __m256i v[2];
};
inline __m256i Bits(__m256i bytes, int mask) {
  return _mm256_and_si256(bytes, _mm256_set1_epi8(mask));
}
inline __m256i Load(const void* at) { return _mm256_loadu_si256((const __m256i*)at); }
inline Codes FourBits(const uint8_t* at) {
  __m256i both = Load(at);
  return {Bits(both, 15), Bits(_mm256_srli_epi16(both, 4), 15)};
}
// of, with 4 added where a bit of high is set
inline __m256i Raised(__m256i of, uint32_t high) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return _mm256_mask_add_epi8(of, high, of, _mm256_set1_epi8(4));
#else
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                          0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(0x8040201008040201);
  __m256i own = _mm256_shuffle_epi8(_mm256_set1_epi32(high), byte);
  __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(own, bit), bit);
  return _mm256_or_si256(of, Bits(set, 4));
#endif
}
inline Codes ThreeBits(const uint8_t* at) {
  uint32_t high[2];
  std::memcpy(high, at + 16, 8);
  __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)at));
  low = _mm256_srlv_epi32(low, _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2));
  return {Raised(Bits(low, 3), high[0]), Raised(Bits(_mm256_srli_epi16(low, 4), 3), high[1])};
}

inline Codes EightBits(const uint8_t* at) { return {Load(at), Load(at + 32)}; }

// Sums of the products of 32 codes with 32 integers; with int8 of codes below 16.
struct Ints {
  __m256i v;
};
inline Ints Dot(Ints sum, __m256i codes, const int8_t* x) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return {_mm256_dpbusd_epi32(sum.v, codes, Load(x))};
#elif defined(__AVXVNNI__)
  return {_mm256_dpbusd_avx_epi32(sum.v, codes, Load(x))};
#else
  __m256i pairs = _mm256_maddubs_epi16(codes, Load(x));  // at most 2 * 15 * 127
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
#endif
}
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
struct Longs {
  __m512i v;
};
inline Longs Dot(Longs sum, __m256i codes, const int16_t* x) {
  return {_mm512_dpwssd_epi32(sum.v, _mm512_cvtepu8_epi16(codes), _mm512_loadu_si512(x))};
}
inline Ints Folded(Longs a) {
  return {_mm256_add_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti64x4_epi64(a.v, 1))};
}
#else
struct Longs {
  __m256i v;
};
inline Longs Dot(Longs sum, __m256i codes, const int16_t* x) {
  __m256i low = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(codes));
  __m256i high = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(codes, 1));
  __m256i both = _mm256_add_epi32(_mm256_madd_epi16(low, Load(x)),
                                  _mm256_madd_epi16(high, Load(x + 16)));
  return {_mm256_add_epi32(sum.v, both)};
}
inline Ints Folded(Longs a) { return {a.v}; }
#endif
inline Ints Folded(Ints a) { return a; }

// 8 floats.
struct Eight {
  __m256 v;
};
inline Eight Fma(Ints a, float by, Eight c) {
  return {_mm256_fmadd_ps(_mm256_cvtepi32_ps(a.v), _mm256_set1_ps(by), c.v)};
}
inline float Sum(Eight a) {
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
}

inline float Float16(uint16_t bits) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))); }

}  // namespace packed
