// What `packed.h` needs of a processor, on any; avx.h says what each function does.

namespace packed {

constexpr int kSums = 4;

struct Codes {
  uint8_t v[64];
};
inline Codes FourBits(const uint8_t* at) {
  Codes codes;
  for (int j = 0; j < 32; ++j) {
    codes.v[j] = at[j] & 15;
    codes.v[32 + j] = at[j] >> 4;
  }
  return codes;
}
inline Codes ThreeBits(const uint8_t* at) {
  Codes codes;
  for (int row = 0; row < 64; ++row) {
    int low = (at[row % 16] >> (2 * (row / 16))) & 3, high = (at[16 + row / 8] >> (row % 8)) & 1;
    codes.v[row] = low | high << 2;
  }
  return codes;
}

inline Codes EightBits(const uint8_t* at) {
  Codes codes;
  std::memcpy(&codes, at, 64);
  return codes;
}

inline void Arrange(int16_t*) {}

struct Ints {
  int32_t v[8];
};
template <typename X>
inline Ints Dot(Ints sum, Codes codes, const X* x) {
  for (int i = 0; i < 64; ++i) sum.v[i % 8] += codes.v[i] * x[i];
  return sum;
}

struct Floats {
  float v[8];
};
inline Floats First(const float* x) {
  Floats found;
  std::memcpy(&found, x, 32);
  return found;
}
inline Floats Fma(Ints a, float by, Floats c) {
  for (int i = 0; i < 8; ++i) c.v[i] += a.v[i] * by;
  return c;
}
inline float Sum(Floats a) {
  float sum = 0;
  for (float x : a.v) sum += x;
  return sum;
}

inline float Float16(uint16_t bits) {
  uint32_t magnitude = uint32_t(bits & 0x7fff) << 13;
  float found;
  std::memcpy(&found, &magnitude, 4);
  found *= 0x1p112f;  // the exponents begin 112 apart
  return bits & 0x8000 ? -found : found;
}
inline void EightFloats(const uint16_t* bits, float* to) {
  for (int i = 0; i < 8; ++i) to[i] = Float16(bits[i]);
}
inline void EightBytes(const uint8_t* bytes, float* to) {
  for (int i = 0; i < 8; ++i) to[i] = bytes[i];
}

}  // namespace packed
