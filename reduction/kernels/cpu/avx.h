// What `packed.h` needs of a processor, on x86 with AVX2 and FMA, or with AVX-512 and VNNI.

#include <immintrin.h>

namespace packed {

inline float Float16(uint16_t bits) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))); }
inline void EightFloats(const uint16_t* bits, float* to) {
  _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)bits)));
}
inline void EightBytes(const uint8_t* bytes, float* to) {
  __m256i words = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes));
  _mm256_storeu_ps(to, _mm256_cvtepi32_ps(words));
}

// kSums: so many `Ints` at once leave registers for what is added to them.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)

constexpr int kSums = 16;

// The codes of 64 rows.
struct Codes {
  __m512i v;
};
inline __m512i Moved(__m512i bytes, int a, int b, int c, int d) {  // each 128 bits by their own
  const __m512i by = _mm512_set_epi32(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a);
  return _mm512_srlv_epi32(bytes, by);
}
inline Codes FourBits(const uint8_t* at) {
  __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i*)at));
  return {_mm512_and_si512(Moved(twice, 0, 0, 4, 4), _mm512_set1_epi8(15))};
}
inline Codes ThreeBits(const uint8_t* at) {
  uint64_t high;
  std::memcpy(&high, at + 16, 8);
  __m512i four_times = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)at));
  __m512i low = _mm512_and_si512(Moved(four_times, 0, 2, 4, 6), _mm512_set1_epi8(3));
  return {_mm512_mask_add_epi8(low, high, low, _mm512_set1_epi8(4))};
}
inline Codes EightBits(const uint8_t* at) { return {_mm512_loadu_si512(at)}; }

// Puts 64 integers in the order in which `Dot` with codes of 3 and 4 bits takes them: here as they
// are.
inline void Arrange(int16_t*) {}

// 16 sums of the products of 64 codes with 64 integers.
struct Ints {
  __m512i v;
};
inline Ints Dot(Ints sum, Codes codes, const int8_t* x) {
  return {_mm512_dpbusd_epi32(sum.v, codes.v, _mm512_loadu_si512(x))};
}
inline Ints Dot(Ints sum, Codes codes, const int16_t* x) {
  __m512i low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(codes.v));
  __m512i high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(codes.v, 1));
  sum.v = _mm512_dpwssd_epi32(sum.v, low, _mm512_loadu_si512(x));
  return {_mm512_dpwssd_epi32(sum.v, high, _mm512_loadu_si512(x + 32))};
}

// As many floats. First: 8, and zeros.
struct Floats {
  __m512 v;
};
inline Floats First(const float* x) { return {_mm512_zextps256_ps512(_mm256_loadu_ps(x))}; }
inline Floats Fma(Ints a, float by, Floats c) {
  return {_mm512_fmadd_ps(_mm512_cvtepi32_ps(a.v), _mm512_set1_ps(by), c.v)};
}
inline float Sum(Floats a) { return _mm512_reduce_add_ps(a.v); }

#else

constexpr int kSums = 8;

struct Codes {
  __m256i v[2];
};
inline __m256i Load(const void* at) { return _mm256_loadu_si256((const __m256i*)at); }
inline __m256i Bits(__m256i bytes, int mask) {
  return _mm256_and_si256(bytes, _mm256_set1_epi8(mask));
}
inline Codes FourBits(const uint8_t* at) {
  __m256i both = Load(at);
  return {Bits(both, 15), Bits(_mm256_srli_epi16(both, 4), 15)};
}
inline Codes ThreeBits(const uint8_t* at) {
  __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)at));
  low = _mm256_srlv_epi32(low, _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2));
  Codes codes = {Bits(low, 3), Bits(_mm256_srli_epi16(low, 4), 3)};
  // each byte looks at its own bit of the one that has it
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                          0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(0x8040201008040201);
  for (int i = 0; i < 2; ++i) {
    int32_t high;
    std::memcpy(&high, at + 16 + 4 * i, 4);
    __m256i own = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(high), byte), bit);
    codes.v[i] = _mm256_or_si256(codes.v[i], Bits(_mm256_cmpeq_epi8(own, bit), 4));
  }
  return codes;
}
struct Bytes {  // codes of 8 bits
  __m256i v[2];
};
inline Bytes EightBits(const uint8_t* at) { return {Load(at), Load(at + 32)}; }

// 64 integers, 256 high + low, as 64 low bytes from 0 to 255 and 64 high ones: products of bytes
// take fewer instructions than those of 16 bits.
inline void Arrange(int16_t* x) {
  const __m256i low = _mm256_set1_epi16(255);
  __m256i v[4];
  for (int i = 0; i < 4; ++i) v[i] = Load(x + 16 * i);
  for (int i = 0; i < 2; ++i) {  // packing takes 8 of one and 8 of the other by turns
    __m256i a = v[2 * i], b = v[2 * i + 1];
    __m256i lows = _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
    __m256i highs = _mm256_packs_epi16(_mm256_srai_epi16(a, 8), _mm256_srai_epi16(b, 8));
    __m256i* to = (__m256i*)x + i;
    _mm256_storeu_si256(to, _mm256_permute4x64_epi64(lows, 0xd8));
    _mm256_storeu_si256(to + 2, _mm256_permute4x64_epi64(highs, 0xd8));
  }
}

// 8 sums of the products of 64 codes with 64 integers; with int8 of codes below 16.
struct Ints {
  __m256i v;
};
inline Ints Dot(Ints sum, Codes codes, const int8_t* x) {
  __m256i low = _mm256_maddubs_epi16(codes.v[0], Load(x));  // at most 2 * 15 * 127
  __m256i pairs = _mm256_add_epi16(low, _mm256_maddubs_epi16(codes.v[1], Load(x + 32)));
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}
inline Ints Dot(Ints sum, Codes codes, const int16_t* x) {
  const __m256i* bytes = (const __m256i*)x;
  __m256i low[2], high[2];
  for (int i = 0; i < 2; ++i) {
    low[i] = _mm256_maddubs_epi16(Load(bytes + i), codes.v[i]);       // at most 2 * 255 * 15
    high[i] = _mm256_maddubs_epi16(codes.v[i], Load(bytes + 2 + i));  // at most 2 * 15 * 128
  }
  __m256i lows = _mm256_add_epi16(low[0], low[1]), highs = _mm256_add_epi16(high[0], high[1]);
  sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(lows, _mm256_set1_epi16(1)));
  sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(highs, _mm256_set1_epi16(256)));
  return sum;
}
inline Ints Dot(Ints sum, Bytes codes, const int16_t* x) {
  for (int i = 0; i < 2; ++i) {
    __m256i low = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(codes.v[i]));
    __m256i high = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(codes.v[i], 1));
    sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(low, Load(x + 32 * i)));
    sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(high, Load(x + 32 * i + 16)));
  }
  return sum;
}

struct Floats {
  __m256 v;
};
inline Floats First(const float* x) { return {_mm256_loadu_ps(x)}; }
inline Floats Fma(Ints a, float by, Floats c) {
  return {_mm256_fmadd_ps(_mm256_cvtepi32_ps(a.v), _mm256_set1_ps(by), c.v)};
}
inline float Sum(Floats a) {
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
}

#endif

}  // namespace packed
