// What `packed.h` needs of a processor, on x86: with AVX2 and FMA, with AVX-512, or with VNNI too.

#include <immintrin.h>

namespace packed {

// Eight floats, one a column of a tile.
struct Eight {
  __m256 v;
};
inline Eight Zeros() { return {_mm256_setzero_ps()}; }
inline Eight Floats(const float* at) { return {_mm256_loadu_ps(at)}; }
inline Eight Floats(const uint16_t* halves) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)halves))};
}
inline Eight Floats(const uint8_t* bytes) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes)))};
}
inline Eight Times(Eight a, Eight b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Eight Times(Eight a, float b) { return {_mm256_mul_ps(a.v, _mm256_set1_ps(b))}; }
inline Eight Added(Eight sum, Eight a, Eight b) { return {_mm256_fmadd_ps(a.v, b.v, sum.v)}; }
inline Eight Less(Eight sum, Eight a, float b) {
  return {_mm256_fnmadd_ps(a.v, _mm256_set1_ps(b), sum.v)};
}
inline void Put(Eight a, float* to) { _mm256_storeu_ps(to, a.v); }

inline int64_t EightBytes(const int8_t* x) {
  int64_t found;
  std::memcpy(&found, x, 8);
  return found;
}

// Vectors of 64 bytes with AVX-512, else of 32. kParts: a tile's, each kPartBytes of every vector,
// are unpacked one after another, as registers allow. Pairs16: sums of two products of bytes, those
// of a unsigned; Pairs32: of two of 16 bits. Low, High: the halves of bytes in 16 bits each. OfTwo,
// OfFour: eight columns whose sums lie in two neighboring lanes, or in four of one of two vectors.
#if defined(__AVX512BW__) && defined(__AVX512VL__)

constexpr int kParts = 1, kPartBytes = 64;
using Vector = __m512i;
inline Vector None() { return _mm512_setzero_si512(); }
inline Vector Load(const void* at) { return _mm512_loadu_si512(at); }
inline Vector Bits(Vector bytes, int mask) {
  return _mm512_and_si512(bytes, _mm512_set1_epi8(mask));
}
inline Vector Moved(Vector bytes, int by) { return _mm512_srli_epi16(bytes, by); }
inline Vector Both(Vector a, Vector b) { return _mm512_or_si512(a, b); }
inline Vector Every(const int8_t* eight) { return _mm512_set1_epi64(EightBytes(eight)); }
inline Vector Every(const int16_t* eight) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)eight));
}
inline Vector Low(Vector bytes) { return _mm512_cvtepu8_epi16(_mm512_castsi512_si256(bytes)); }
inline Vector High(Vector bytes) {
  return _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(bytes, 1));
}
inline Vector Pairs16(Vector a, Vector b) { return _mm512_maddubs_epi16(a, b); }
inline Vector Pairs32(Vector a, Vector b) { return _mm512_madd_epi16(a, b); }
inline Vector Pairs32(Vector a, int b) { return _mm512_madd_epi16(a, _mm512_set1_epi16(b)); }
inline Vector Sum16(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
inline Vector Sum32(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
inline Eight OfTwo(const Vector (&parts)[kParts]) {
  Vector all = Sum32(parts[0], _mm512_srli_epi64(parts[0], 32));
  return {_mm256_cvtepi32_ps(_mm512_cvtepi64_epi32(all))};
}
inline Eight OfFour(const Vector (&parts)[kParts][2]) {
  const Vector even = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
  const Vector odd = _mm512_setr_epi32(2, 6, 10, 14, 18, 22, 26, 30, 0, 0, 0, 0, 0, 0, 0, 0);
  Vector a = Sum32(parts[0][0], _mm512_srli_epi64(parts[0][0], 32));
  Vector b = Sum32(parts[0][1], _mm512_srli_epi64(parts[0][1], 32));
  Vector all = Sum32(_mm512_permutex2var_epi32(a, even, b), _mm512_permutex2var_epi32(a, odd, b));
  return {_mm256_cvtepi32_ps(_mm512_castsi512_si256(all))};
}

#else

constexpr int kParts = 2, kPartBytes = 32;
using Vector = __m256i;
inline Vector None() { return _mm256_setzero_si256(); }
inline Vector Load(const void* at) { return _mm256_loadu_si256((const __m256i*)at); }
inline Vector Bits(Vector bytes, int mask) {
  return _mm256_and_si256(bytes, _mm256_set1_epi8(mask));
}
inline Vector Moved(Vector bytes, int by) { return _mm256_srli_epi16(bytes, by); }
inline Vector Both(Vector a, Vector b) { return _mm256_or_si256(a, b); }
inline Vector Every(const int8_t* eight) { return _mm256_set1_epi64x(EightBytes(eight)); }
inline Vector Every(const int16_t* eight) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)eight));
}
inline Vector Low(Vector bytes) { return _mm256_cvtepu8_epi16(_mm256_castsi256_si128(bytes)); }
inline Vector High(Vector bytes) {
  return _mm256_cvtepu8_epi16(_mm256_extracti128_si256(bytes, 1));
}
inline Vector Pairs16(Vector a, Vector b) { return _mm256_maddubs_epi16(a, b); }
inline Vector Pairs32(Vector a, Vector b) { return _mm256_madd_epi16(a, b); }
inline Vector Pairs32(Vector a, int b) { return _mm256_madd_epi16(a, _mm256_set1_epi16(b)); }
inline Vector Sum16(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
inline Vector Sum32(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
// Adding neighbors of two vectors takes four lanes of one and four of the other by turns.
inline Eight OfTwo(const Vector (&parts)[kParts]) {
  Vector found = _mm256_hadd_epi32(parts[0], parts[1]);
  return {_mm256_cvtepi32_ps(_mm256_permute4x64_epi64(found, 0xd8))};
}
inline Eight OfFour(const Vector (&parts)[kParts][2]) {
  Vector a = _mm256_hadd_epi32(parts[0][0], parts[0][1]);
  Vector b = _mm256_hadd_epi32(parts[1][0], parts[1][1]);
  const Vector order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return {_mm256_cvtepi32_ps(_mm256_permutevar8x32_epi32(_mm256_hadd_epi32(a, b), order))};
}

#endif

// Codes: of 64 rows of a part, eight rows in each of v. Unpacked, Dot: kFrom to kTo - 1 of these,
// either half or all; x begins with the 64 rows. Sums: of products with integers of x,
// several lanes a column. kHalved: whether integers of 16 bits come as `Halved` puts them: products
// of bytes take fewer instructions.
template <int kBits>
struct Codes {
  Vector v[8];
};
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)

template <int kBits>
constexpr bool kHalved = true;

// A product waits for the one before in its chain: with few rows of x there are two chains.
template <int kBits, typename X, int M>
struct Sums {
  static constexpr int kChains = M > 2 ? 1 : 2;
  Vector v[sizeof(X)][kChains];
};
template <int kFrom, int kTo, int kBits, typename X, int M>
inline void Dot(Sums<kBits, X, M>& sums, const Codes<kBits>& codes, const X* x) {
  const int8_t* bytes = (const int8_t*)x;
  PACKED_UNROLL for (int i = kFrom; i < kTo; ++i) {
    PACKED_UNROLL for (size_t high = 0; high < sizeof(X); ++high) {
      Vector& sum = sums.v[high][i % sums.kChains];
      sum = _mm512_dpbusd_epi32(sum, codes.v[i], Every(bytes + 64 * high + 8 * i));
    }
  }
}
template <int kBits, typename X, int M>
inline Eight InColumns(const Sums<kBits, X, M> (&sums)[kParts]) {
  Vector all[kParts] = {None()};
  PACKED_UNROLL for (int chain = 0; chain < sums[0].kChains; ++chain) {
    PACKED_UNROLL for (size_t high = 0; high < sizeof(X); ++high) {
      all[0] = Sum32(all[0], _mm512_slli_epi32(sums[0].v[high][chain], 8 * high));
    }
  }
  return OfTwo(all);
}

#else

template <int kBits>
constexpr bool kHalved = kBits < 8;

template <int kBits, typename X, int M>
struct Sums {
  Vector v;
};
template <typename X, int M>
struct Sums<8, X, M> {
  Vector v[2];
};
// Sums of eight products with bytes, in 16 bits: at most 8 * 2 * 15 * 128.
template <int kFrom, int kTo, int kBits>
inline Vector Pairs(const Codes<kBits>& codes, const int8_t* x) {
  Vector sum = None();
  PACKED_UNROLL for (int i = kFrom; i < kTo; ++i) {
    sum = Sum16(sum, Pairs16(codes.v[i], Every(x + 8 * i)));
  }
  return sum;
}
template <int kFrom, int kTo, int kBits, typename X, int M>
inline void Dot(Sums<kBits, X, M>& sums, const Codes<kBits>& codes, const X* x) {
  const int8_t* bytes = (const int8_t*)x;
  Vector sum = Pairs32(Pairs<kFrom, kTo>(codes, bytes), 1);
  if (sizeof(X) > 1) sum = Sum32(sum, Pairs32(Pairs<kFrom, kTo>(codes, bytes + 64), 256));
  sums.v = Sum32(sums.v, sum);
}
template <int kFrom, int kTo, int M>
inline void Dot(Sums<8, int16_t, M>& sums, const Codes<8>& codes, const int16_t* x) {
  PACKED_UNROLL for (int i = kFrom; i < kTo; ++i) {
    Vector eight = Every(x + 8 * i);
    sums.v[0] = Sum32(sums.v[0], Pairs32(Low(codes.v[i]), eight));
    sums.v[1] = Sum32(sums.v[1], Pairs32(High(codes.v[i]), eight));
  }
}
template <int kBits, typename X, int M>
inline Eight InColumns(const Sums<kBits, X, M> (&sums)[kParts]) {
  Vector parts[kParts];
  for (int p = 0; p < kParts; ++p) parts[p] = sums[p].v;
  return OfTwo(parts);
}
template <int M>
inline Eight InColumns(const Sums<8, int16_t, M> (&sums)[kParts]) {
  Vector parts[kParts][2];
  for (int p = 0; p < kParts; ++p) parts[p][0] = sums[p].v[0], parts[p][1] = sums[p].v[1];
  return OfFour(parts);
}

#endif

template <int kBits, int kFrom = 0, int kTo = 8>
inline Codes<kBits> Unpacked(const uint8_t* at) {
  Codes<kBits> codes;
  Vector* to = codes.v;
  if constexpr (kBits == 8) {
    PACKED_UNROLL for (int i = kFrom; i < kTo; ++i) to[i] = Load(at + 64 * i);
  } else if constexpr (kBits == 4) {
    PACKED_UNROLL for (int i = kFrom / 2; i < kTo / 2; ++i) {
      Vector two = Load(at + 64 * i);
      to[2 * i] = Bits(two, 15), to[2 * i + 1] = Bits(Moved(two, 4), 15);
    }
  } else {
    Vector a = Load(at), b = Load(at + 64), c = Load(at + 128);
    to[0] = Bits(a, 7), to[1] = Bits(Moved(a, 3), 7);
    to[2] = Bits(b, 7), to[3] = Bits(Moved(b, 3), 7);
    to[4] = Bits(c, 7), to[5] = Bits(Moved(c, 3), 7);
    to[6] = Both(Bits(Moved(a, 6), 3), Bits(Moved(c, 4), 4));
    to[7] = Both(Bits(Moved(b, 6), 3), Bits(Moved(c, 5), 4));
  }
  return codes;
}

}  // namespace packed
