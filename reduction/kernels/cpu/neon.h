// What `packed.h` needs of a processor, on 64-bit Arm; avx.h says what each function does.

#include <arm_neon.h>

namespace packed {

struct Eight {
  float32x4_t v[2];
};
inline Eight Zeros() { return {{vdupq_n_f32(0), vdupq_n_f32(0)}}; }
inline Eight Floats(const float* at) { return {{vld1q_f32(at), vld1q_f32(at + 4)}}; }
inline Eight Floats(const uint16_t* halves) {
  float16x8_t eight = vreinterpretq_f16_u16(vld1q_u16(halves));
  return {{vcvt_f32_f16(vget_low_f16(eight)), vcvt_high_f32_f16(eight)}};
}
inline Eight Floats(const uint8_t* bytes) {
  uint16x8_t words = vmovl_u8(vld1_u8(bytes));
  return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))), vcvtq_f32_u32(vmovl_high_u16(words))}};
}
inline Eight Times(Eight a, Eight b) {
  return {{vmulq_f32(a.v[0], b.v[0]), vmulq_f32(a.v[1], b.v[1])}};
}
inline Eight Times(Eight a, float b) { return {{vmulq_n_f32(a.v[0], b), vmulq_n_f32(a.v[1], b)}}; }
inline Eight Added(Eight sum, Eight a, Eight b) {
  return {{vfmaq_f32(sum.v[0], a.v[0], b.v[0]), vfmaq_f32(sum.v[1], a.v[1], b.v[1])}};
}
inline Eight Less(Eight sum, Eight a, float b) {
  return {{vfmsq_n_f32(sum.v[0], a.v[0], b), vfmsq_n_f32(sum.v[1], a.v[1], b)}};
}
inline void Put(Eight a, float* to) { vst1q_f32(to, a.v[0]), vst1q_f32(to + 4, a.v[1]); }

constexpr int kParts = 4, kPartBytes = 16;
template <int kBits>
constexpr bool kHalved = false;

template <int kBits>
struct Codes {
  uint8x16_t v[8];
};
template <int kBits, int kFrom = 0, int kTo = 8>
inline Codes<kBits> Unpacked(const uint8_t* at) {
  Codes<kBits> codes;
  uint8x16_t* to = codes.v;
  if constexpr (kBits == 8) {
    PACKED_UNROLL for (int i = kFrom; i < kTo; ++i) to[i] = vld1q_u8(at + 64 * i);
  } else if constexpr (kBits == 4) {
    PACKED_UNROLL for (int i = kFrom / 2; i < kTo / 2; ++i) {  // 32 weights: a mask and a shift
      uint8x16_t two = vld1q_u8(at + 64 * i);
      to[2 * i] = vandq_u8(two, vdupq_n_u8(15)), to[2 * i + 1] = vshrq_n_u8(two, 4);
    }
  } else {
    uint8x16_t all[3], seven = vdupq_n_u8(7), four = vdupq_n_u8(4);
    PACKED_UNROLL for (int i = 0; i < 3; ++i) {
      all[i] = vld1q_u8(at + 64 * i);
      to[2 * i] = vandq_u8(all[i], seven), to[2 * i + 1] = vandq_u8(vshrq_n_u8(all[i], 3), seven);
    }
    to[6] = vorrq_u8(vshrq_n_u8(all[0], 6), vandq_u8(vshrq_n_u8(all[2], 4), four));
    to[7] = vorrq_u8(vshrq_n_u8(all[1], 6), vandq_u8(vshrq_n_u8(all[2], 5), four));
  }
  return codes;
}

template <int kBits, typename X, int M>
struct Sums {
  int32x4_t v[sizeof(X)];  // of 16 bits, one for each column
};
template <int kFrom, int kTo, int kBits, int M>
inline void Dot(Sums<kBits, int8_t, M>& sums, const Codes<kBits>& codes, const int8_t* x) {
  PACKED_UNROLL for (int i = kFrom; i < kTo; ++i) {
    int8x16_t a = vreinterpretq_s8_u8(codes.v[i]);
    int8x8_t eight = vld1_s8(x + 8 * i);
    int8x16_t b = vcombine_s8(eight, eight);
#if defined(__ARM_FEATURE_DOTPROD)
    sums.v[0] = vdotq_s32(sums.v[0], a, b);
#else
    int16x8_t one = vmull_s8(vget_low_s8(a), eight), other = vmull_high_s8(a, b);
    sums.v[0] = vpadalq_s16(sums.v[0], vpaddq_s16(one, other));  // at most 2 * 15 * 127
#endif
  }
}
template <int kFrom, int kTo, int kBits, int M>
inline void Dot(Sums<kBits, int16_t, M>& sums, const Codes<kBits>& codes, const int16_t* x) {
  PACKED_UNROLL for (int i = kFrom; i < kTo; ++i) {
    int16x8_t eight = vld1q_s16(x + 8 * i);
    int16x8_t column[2] = {vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(codes.v[i]))),
                           vreinterpretq_s16_u16(vmovl_high_u8(codes.v[i]))};
    PACKED_UNROLL for (int c = 0; c < 2; ++c) {
      sums.v[c] = vmlal_s16(sums.v[c], vget_low_s16(column[c]), vget_low_s16(eight));
      sums.v[c] = vmlal_high_s16(sums.v[c], column[c], eight);
    }
  }
}
template <int kBits, int M>
inline Eight InColumns(const Sums<kBits, int8_t, M> (&sums)[kParts]) {
  return {{vcvtq_f32_s32(vpaddq_s32(sums[0].v[0], sums[1].v[0])),
           vcvtq_f32_s32(vpaddq_s32(sums[2].v[0], sums[3].v[0]))}};
}
template <int kBits, int M>
inline Eight InColumns(const Sums<kBits, int16_t, M> (&sums)[kParts]) {
  Eight found;
  PACKED_UNROLL for (int i = 0; i < 2; ++i) {
    int32x4_t a = vpaddq_s32(sums[2 * i].v[0], sums[2 * i].v[1]);
    int32x4_t b = vpaddq_s32(sums[2 * i + 1].v[0], sums[2 * i + 1].v[1]);
    found.v[i] = vcvtq_f32_s32(vpaddq_s32(a, b));
  }
  return found;
}

}  // namespace packed
