// What `packed.h` needs of a processor, on any; avx.h says what each function does.

namespace packed {

struct Eight {
  float v[8];
};
inline Eight Zeros() { return {}; }
inline float Float16(uint16_t bits) {
  uint32_t magnitude = uint32_t(bits & 0x7fff) << 13;
  float found;
  std::memcpy(&found, &magnitude, 4);
  found *= 0x1p112f;  // the exponents begin 112 apart
  return bits & 0x8000 ? -found : found;
}
inline Eight Floats(const float* at) {
  Eight found;
  std::memcpy(&found, at, 32);
  return found;
}
inline Eight Floats(const uint16_t* halves) {
  Eight found;
  for (int i = 0; i < 8; ++i) found.v[i] = Float16(halves[i]);
  return found;
}
inline Eight Floats(const uint8_t* bytes) {
  Eight found;
  for (int i = 0; i < 8; ++i) found.v[i] = bytes[i];
  return found;
}
inline Eight Times(Eight a, Eight b) {
  for (int i = 0; i < 8; ++i) a.v[i] *= b.v[i];
  return a;
}
inline Eight Times(Eight a, float b) {
  for (float& x : a.v) x *= b;
  return a;
}
inline Eight Added(Eight sum, Eight a, Eight b) {
  for (int i = 0; i < 8; ++i) sum.v[i] += a.v[i] * b.v[i];
  return sum;
}
inline Eight Less(Eight sum, Eight a, float b) {
  for (int i = 0; i < 8; ++i) sum.v[i] -= a.v[i] * b;
  return sum;
}
inline void Put(Eight a, float* to) { std::memcpy(to, &a, 32); }

constexpr int kParts = 1, kPartBytes = 64;
template <int kBits>
constexpr bool kHalved = false;

template <int kBits>
struct Codes {
  uint8_t v[8][64];
};
template <int kBits, int kFrom = 0, int kTo = 8>
inline Codes<kBits> Unpacked(const uint8_t* at) {
  Codes<kBits> codes;
  for (int j = 0; j < 64; ++j) {
    const uint8_t a = at[j], b = at[64 + j], c = at[128 + j];
    if (kBits == 8) {
      for (int i = 0; i < 8; ++i) codes.v[i][j] = at[64 * i + j];
    } else if (kBits == 4) {
      for (int i = 0; i < 8; ++i) codes.v[i][j] = at[64 * (i / 2) + j] >> (4 * (i % 2)) & 15;
    } else {
      const int high[2] = {a >> 6 | (c >> 4 & 4), b >> 6 | (c >> 5 & 4)};
      for (int i = 0; i < 6; ++i) codes.v[i][j] = at[64 * (i / 2) + j] >> (3 * (i % 2)) & 7;
      for (int i = 6; i < 8; ++i) codes.v[i][j] = high[i - 6];
    }
  }
  return codes;
}

template <int kBits, typename X, int M>
struct Sums {
  int32_t v[8];
};
template <int kFrom, int kTo, int kBits, typename X, int M>
inline void Dot(Sums<kBits, X, M>& sums, const Codes<kBits>& codes, const X* x) {
  for (int i = kFrom; i < kTo; ++i) {
    for (int j = 0; j < 64; ++j) sums.v[j / 8] += codes.v[i][j] * x[8 * i + j % 8];
  }
}
template <int kBits, typename X, int M>
inline Eight InColumns(const Sums<kBits, X, M> (&sums)[kParts]) {
  Eight found;
  for (int i = 0; i < 8; ++i) found.v[i] = sums[0].v[i];
  return found;
}

}  // namespace packed
