// What `packed.h` needs of a processor, on 64-bit Arm; avx.h says what each function does.

#include <arm_neon.h>

namespace packed {

constexpr int kSums = 8;

struct Wide {
  uint8x16_t v[2];
};
struct Codes {
  Wide v[2];
};
inline Codes FourBits(const uint8_t* at) {
  Codes codes;
  for (int i = 0; i < 2; ++i) {  // 32 weights: a mask and a shift
    uint8x16_t both = vld1q_u8(at + 16 * i);
    codes.v[0].v[i] = vandq_u8(both, vdupq_n_u8(15));
    codes.v[1].v[i] = vshrq_n_u8(both, 4);
  }
  return codes;
}
inline Codes ThreeBits(const uint8_t* at) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  uint8x16_t low = vld1q_u8(at), three = vdupq_n_u8(3);
  uint8x16_t two[4] = {vandq_u8(low, three), vandq_u8(vshrq_n_u8(low, 2), three),
                       vandq_u8(vshrq_n_u8(low, 4), three), vshrq_n_u8(low, 6)};
  Codes codes;
  for (int i = 0; i < 4; ++i) {
    const uint8_t* high = at + 16 + 2 * i;
    uint8x16_t own = vcombine_u8(vld1_dup_u8(high), vld1_dup_u8(high + 1));
    uint8x16_t four = vandq_u8(vtstq_u8(own, bit), vdupq_n_u8(4));
    codes.v[i / 2].v[i % 2] = vorrq_u8(two[i], four);
  }
  return codes;
}

inline Codes EightBits(const uint8_t* at) {
  return {{{vld1q_u8(at), vld1q_u8(at + 16)}, {vld1q_u8(at + 32), vld1q_u8(at + 48)}}};
}

inline void Arrange(int16_t*) {}

struct Ints {
  int32x4_t v[2];
};
inline Ints Dot(Ints sum, Codes codes, const int8_t* x) {
  for (int i = 0; i < 4; ++i) {
    int8x16_t a = vreinterpretq_s8_u8(codes.v[i / 2].v[i % 2]), b = vld1q_s8(x + 16 * i);
#if defined(__ARM_FEATURE_DOTPROD)
    sum.v[i % 2] = vdotq_s32(sum.v[i % 2], a, b);
#else
    int16x8_t pairs = vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b);
    sum.v[i % 2] = vpadalq_s16(sum.v[i % 2], pairs);  // at most 2 * 15 * 127
#endif
  }
  return sum;
}
inline Ints Dot(Ints sum, Codes codes, const int16_t* x) {
  for (int i = 0; i < 4; ++i) {
    uint8x16_t sixteen = codes.v[i / 2].v[i % 2];
    int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(sixteen)));
    int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(sixteen));
    int16x8_t b = vld1q_s16(x + 16 * i), c = vld1q_s16(x + 16 * i + 8);
    sum.v[0] = vmlal_s16(sum.v[0], vget_low_s16(low), vget_low_s16(b));
    sum.v[1] = vmlal_high_s16(sum.v[1], low, b);
    sum.v[0] = vmlal_s16(sum.v[0], vget_low_s16(high), vget_low_s16(c));
    sum.v[1] = vmlal_high_s16(sum.v[1], high, c);
  }
  return sum;
}

struct Floats {
  float32x4_t v[2];
};
inline Floats First(const float* x) { return {{vld1q_f32(x), vld1q_f32(x + 4)}}; }
inline Floats Fma(Ints a, float by, Floats c) {
  for (int i = 0; i < 2; ++i) c.v[i] = vfmaq_n_f32(c.v[i], vcvtq_f32_s32(a.v[i]), by);
  return c;
}
inline float Sum(Floats a) { return vaddvq_f32(vaddq_f32(a.v[0], a.v[1])); }

inline float Float16(uint16_t bits) {
  __fp16 half;
  std::memcpy(&half, &bits, 2);
  return half;
}
inline void EightFloats(const uint16_t* bits, float* to) {
  float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(bits));
  vst1q_f32(to, vcvt_f32_f16(vget_low_f16(halves)));
  vst1q_f32(to + 4, vcvt_high_f32_f16(halves));
}
inline void EightBytes(const uint8_t* bytes, float* to) {
  uint16x8_t words = vmovl_u8(vld1_u8(bytes));
  vst1q_f32(to, vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))));
  vst1q_f32(to + 4, vcvtq_f32_u32(vmovl_high_u16(words)));
}

}  // namespace packed
