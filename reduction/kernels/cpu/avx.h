// What `packed.h` needs of a processor, on x86 with AVX2 and FMA, or with AVX-512 and VNNI.

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

// kParts: a tile's, each kPartBytes of every vector, are unpacked one after another, as registers
// allow. Codes: of 64 rows of a part, eight rows in each of v. Sums: of products with integers of
// x, several lanes a column. kHalved: whether integers of 16 bits come as `Halved` puts them:
// products of bytes take fewer instructions.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)

constexpr int kParts = 1, kPartBytes = 64;
template <int kBits>
constexpr bool kHalved = true;

using Vector = __m512i;
inline Vector Load(const void* at) { return _mm512_loadu_si512(at); }
inline Vector Bits(Vector bytes, int mask) {
  return _mm512_and_si512(bytes, _mm512_set1_epi8(mask));
}
inline Vector Moved(Vector bytes, int by) { return _mm512_srli_epi16(bytes, by); }
inline Vector Both(Vector a, Vector b) { return _mm512_or_si512(a, b); }

template <int kBits>
struct Codes {
  Vector v[8];
};
// A product waits for the one before in its chain: with few rows of x there are two chains.
template <int kBits, typename X, int M>
struct Sums {
  static constexpr int kChains = M > 2 ? 1 : 2;
  Vector v[sizeof(X)][kChains];
};
template <int kBits, typename X, int M>
inline void Dot(Sums<kBits, X, M>& sums, const Codes<kBits>& codes, const X* x) {
  const int8_t* bytes = (const int8_t*)x;
  PACKED_UNROLL for (int i = 0; i < 8; ++i) {
    PACKED_UNROLL for (size_t high = 0; high < sizeof(X); ++high) {
      Vector& sum = sums.v[high][i % sums.kChains];
      Vector eight = _mm512_set1_epi64(EightBytes(bytes + 64 * high + 8 * i));
      sum = _mm512_dpbusd_epi32(sum, codes.v[i], eight);
    }
  }
}
template <int kBits, typename X, int M>
inline Eight InColumns(const Sums<kBits, X, M> (&sums)[kParts]) {
  Vector all = _mm512_setzero_si512();
  PACKED_UNROLL for (int chain = 0; chain < sums[0].kChains; ++chain) {
    PACKED_UNROLL for (size_t high = 0; high < sizeof(X); ++high) {
      all = _mm512_add_epi32(all, _mm512_slli_epi32(sums[0].v[high][chain], 8 * high));
    }
  }
  all = _mm512_add_epi32(all, _mm512_srli_epi64(all, 32));  // of two neighbors, in the first
  return {_mm256_cvtepi32_ps(_mm512_cvtepi64_epi32(all))};
}

#else

constexpr int kParts = 2, kPartBytes = 32;
template <int kBits>
constexpr bool kHalved = kBits < 8;

using Vector = __m256i;
inline Vector Load(const void* at) { return _mm256_loadu_si256((const __m256i*)at); }
inline Vector Bits(Vector bytes, int mask) {
  return _mm256_and_si256(bytes, _mm256_set1_epi8(mask));
}
inline Vector Moved(Vector bytes, int by) { return _mm256_srli_epi16(bytes, by); }
inline Vector Both(Vector a, Vector b) { return _mm256_or_si256(a, b); }

template <int kBits>
struct Codes {
  Vector v[8];
};
template <int kBits, typename X, int M>
struct Sums {
  Vector v;
};
template <typename X, int M>
struct Sums<8, X, M> {
  Vector v[2];
};
// Sums of eight products with bytes, in 16 bits: at most 8 * 2 * 15 * 128.
template <int kBits>
inline Vector Pairs(const Codes<kBits>& codes, const int8_t* x) {
  Vector sum = _mm256_setzero_si256();
  PACKED_UNROLL for (int i = 0; i < 8; ++i) {
    Vector eight = _mm256_set1_epi64x(EightBytes(x + 8 * i));
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes.v[i], eight));
  }
  return sum;
}
template <int kBits, typename X, int M>
inline void Dot(Sums<kBits, X, M>& sums, const Codes<kBits>& codes, const X* x) {
  const int8_t* bytes = (const int8_t*)x;
  Vector sum = _mm256_madd_epi16(Pairs(codes, bytes), _mm256_set1_epi16(1));
  if (sizeof(X) > 1) {
    Vector high = _mm256_madd_epi16(Pairs(codes, bytes + 64), _mm256_set1_epi16(256));
    sum = _mm256_add_epi32(sum, high);
  }
  sums.v = _mm256_add_epi32(sums.v, sum);
}
template <int M>
inline void Dot(Sums<8, int16_t, M>& sums, const Codes<8>& codes, const int16_t* x) {
  PACKED_UNROLL for (int i = 0; i < 8; ++i) {
    Vector eight = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(x + 8 * i)));
    Vector low = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(codes.v[i]));
    Vector high = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(codes.v[i], 1));
    sums.v[0] = _mm256_add_epi32(sums.v[0], _mm256_madd_epi16(low, eight));
    sums.v[1] = _mm256_add_epi32(sums.v[1], _mm256_madd_epi16(high, eight));
  }
}
// Adding neighbors of two vectors takes four lanes of one and four of the other by turns.
template <int kBits, typename X, int M>
inline Eight InColumns(const Sums<kBits, X, M> (&sums)[kParts]) {
  Vector found = _mm256_hadd_epi32(sums[0].v, sums[1].v);
  return {_mm256_cvtepi32_ps(_mm256_permute4x64_epi64(found, 0xd8))};
}
template <int M>
inline Eight InColumns(const Sums<8, int16_t, M> (&sums)[kParts]) {
  Vector a = _mm256_hadd_epi32(sums[0].v[0], sums[0].v[1]);
  Vector b = _mm256_hadd_epi32(sums[1].v[0], sums[1].v[1]);
  const Vector order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return {_mm256_cvtepi32_ps(_mm256_permutevar8x32_epi32(_mm256_hadd_epi32(a, b), order))};
}

#endif

template <int kBits>
inline Codes<kBits> Unpacked(const uint8_t* at) {
  Codes<kBits> codes;
  Vector* to = codes.v;
  if constexpr (kBits == 8) {
    PACKED_UNROLL for (int i = 0; i < 8; ++i) to[i] = Load(at + 64 * i);
  } else if constexpr (kBits == 4) {
    PACKED_UNROLL for (int i = 0; i < 4; ++i) {
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
