// One token through all blocks of a decoder of the Llama family, whose linears are packed.
//
// A block: x += output(attention(turned(queries), turned(keys), values of norm(x))), then
// x += down(silu(gate) up of norm(x)). Queries, keys and values may have biases (Qwen2), and heads
// of queries and keys norms of their own (Qwen3), before they are turned. The projections that read
// one norm lie one after another as columns of one weight, so that its integers are made once:
// queries, keys, values; gates, ups. All have whole tiles of columns.
// The memory of earlier tokens is written at `place` and read up to it.
// Scratch: a few rows of x and the scores of one head, `place` floats. Equal to the blocks one
// operation after another but for the order of float32 sums and the last bits of exp.

#ifndef REDUCTION_DECODER_H_
#define REDUCTION_DECODER_H_

#include "packed.h"

namespace packed {

PACKED_COLUMNS(extern template);  // packed.cc has them: they take a compiler longest

}  // namespace packed

namespace decoder {

// A packed weight of every block: columns of one, then of the next.
struct Linear {
  packed::Weight w;  // of the first block
  int64_t bits;

  packed::Weight Of(int64_t layer) const {
    packed::Weight one = w;
    one.data += layer * w.columns / packed::kTile * w.Stride(bits);
    one.scale = (const char*)w.scale + layer * w.columns * w.groups * (w.half ? 2 : 4);
    one.zero += layer * w.columns * w.groups;
    return one;
  }
};

// Keys or values [layers, places, heads * size] as T: float, bfloat16 in uint16, or int8 with a
// scale for each token and head.
template <typename T>
struct Memory {
  T *keys, *values;
  float* scales;  // [layers, 2, heads, places] of keys and values in int8
  int64_t places, heads, size;
};

// What a block has besides; nullptr where it has none.
struct Vectors {
  const float* norms;   // [layers, 2, width]
  const float* biases;  // [layers, columns of queries, keys and values]
  const float* heads;   // [layers, 2, size]: norms of the heads of queries, of keys
};

struct Sizes {
  int64_t layers, width, heads, inner;
  float epsilon;
};

inline float AsFloat(float x) { return x; }
inline float AsFloat(int8_t x) { return x; }
inline float AsFloat(uint16_t x) {
  uint32_t bits = uint32_t(x) << 16;
  float found;
  std::memcpy(&found, &bits, 4);
  return found;
}

// Stores x [size]; returns the scale.
inline float Store(const float* x, int64_t size, float* to) {
  std::memcpy(to, x, size * sizeof(float));
  return 1;
}
inline float Store(const float* x, int64_t size, uint16_t* to) {
  for (int64_t i = 0; i < size; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    to[i] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to the nearest, ties to even
  }
  return 1;
}
inline float Store(const float* x, int64_t size, int8_t* to) {
  float most = 1e-30f;
  for (int64_t i = 0; i < size; ++i) most = std::max(most, std::fabs(x[i]));
  float scale = most / 127;
  for (int64_t i = 0; i < size; ++i) to[i] = int8_t(std::nearbyint(x[i] / scale));
  return scale;
}

template <typename T>
inline float Dot(const float* a, const T* b, int64_t count) {
  float parts[16] = {}, sum = 0;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int j = 0; j < 16; ++j) parts[j] += a[i + j] * AsFloat(b[i + j]);
  }
  for (; i < count; ++i) sum += a[i] * AsFloat(b[i]);
  for (float part : parts) sum += part;
  return sum;
}

// e^x for x <= 0, to 2e-7 of it: 2^n e^r with |r| <= log(2) / 2.
inline float Exp(float x) {
  x = std::max(x, -87.0f);
  float shifted = x * 1.44269504f + 0x1.8p23f, n = shifted - 0x1.8p23f;
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = ((1 / 720.0f * r + 1 / 120.0f) * r + 1 / 24.0f) * r + 1 / 6.0f;
  p = ((p * r + 0.5f) * r + 1) * r + 1;
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits - 0x4b400000 + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

// x [width] over its root mean square, times scale.
inline void Norm(const float* x, const float* scale, int64_t width, float epsilon, float* to) {
  float by = 1 / std::sqrt(Dot(x, x, width) / width + epsilon);
  for (int64_t i = 0; i < width; ++i) to[i] = x[i] * by * scale[i];
}

// Units i and i + half of a head turned together.
inline void Turn(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    float one = x[i], other = x[i + half];
    x[i] = one * cos[i] - other * sin[i];
    x[i + half] = other * cos[i] + one * sin[i];
  }
}

// What a query [size] reads of a head's memory up to `place`. by: nullptr, or scales of keys and of
// values [places] of this head. scores: scratch [place + 1].
template <typename T>
void Attend(const float* query, const Memory<T>& memory, const T* keys, const T* values,
            const float* const by[2], int64_t place, float* scores, float* to) {
  int64_t step = memory.heads * memory.size;
  float root = 1 / std::sqrt(float(memory.size)), top = -1e30f, total = 0;
  for (int64_t p = 0; p <= place; ++p) {
    float scale = by ? root * by[0][p] : root;
    scores[p] = scale * Dot(query, keys + p * step, memory.size);
    top = std::max(top, scores[p]);
  }
  for (int64_t p = 0; p <= place; ++p) scores[p] = Exp(scores[p] - top);
  for (int64_t p = 0; p <= place; ++p) total += scores[p];
  std::fill(to, to + memory.size, 0.0f);
  for (int64_t p = 0; p <= place; ++p) {
    float weight = scores[p] / total * (by ? by[1][p] : 1);
    for (int64_t i = 0; i < memory.size; ++i) to[i] += weight * AsFloat(values[p * step + i]);
  }
}

// x [width] in place. X: integers of the products; T: of the memory. run(count, unit, work): as
// Team::Run. turns: radians a token [size / 2].
template <typename X, typename T, typename Run>
void Token(const Sizes& of, const Linear& together, const Linear& output, const Linear& gates,
           const Linear& down, const Vectors& vectors, const float* turns, const Memory<T>& memory,
           int64_t place, float* x, Run run) {
  int64_t size = memory.size, half = size / 2, shared = memory.heads, each = of.heads / shared;
  int64_t one = memory.places * shared;  // heads of a layer's memory
  std::vector<float> normed(of.width), all((of.heads + 2 * shared) * size), read(of.heads * size);
  std::vector<float> hidden(2 * of.inner), sum(of.width), cos(half), sin(half);
  std::vector<float> scores(of.heads * (place + 1));
  for (int64_t i = 0; i < half; ++i) {
    cos[i] = std::cos(place * turns[i]), sin[i] = std::sin(place * turns[i]);
  }
  auto multiply = [](const Linear& linear) {
    if constexpr (sizeof(X) > 1) {
      if (linear.bits == 8) return packed::Columns<8, X>;
    }
    return linear.bits == 4 ? packed::Columns<4, X> : packed::Columns<3, X>;
  };
  auto added = [&](const Linear& linear, const packed::Rows<X>& in, int64_t layer) {
    packed::Weight w = linear.Of(layer);
    run(w.columns, 16, [&](int64_t begin, int64_t end) {
      multiply(linear)(in, w, begin, end, sum.data());
      for (int64_t i = begin; i < end; ++i) x[i] += sum[i];
    });
  };
  for (int64_t layer = 0; layer < of.layers; ++layer) {
    const float* norms = vectors.norms + 2 * layer * of.width;
    Norm(x, norms, of.width, of.epsilon, normed.data());
    packed::Weight w = together.Of(layer);
    packed::Rows<X> in(normed.data(), 1, of.width, w, together.bits);
    run(w.columns, 16, [&](int64_t begin, int64_t end) {
      multiply(together)(in, w, begin, end, all.data());
      if (!vectors.biases) return;
      const float* biases = vectors.biases + layer * w.columns;
      for (int64_t i = begin; i < end; ++i) all[i] += biases[i];
    });
    float *keys = all.data() + of.heads * size, *values = keys + shared * size;
    T* rows[2] = {memory.keys + layer * one * size, memory.values + layer * one * size};
    float* scales = memory.scales + 2 * layer * one;
    for (int64_t head = 0; head < of.heads + shared; ++head) {  // queries and keys
      float* one_head = all.data() + head * size;
      if (vectors.heads) {
        const float* own = vectors.heads + (2 * layer + (head >= of.heads)) * size;
        Norm(one_head, own, size, of.epsilon, one_head);
      }
      Turn(one_head, cos.data(), sin.data(), half);
    }
    for (int64_t head = 0; head < shared; ++head) {
      int64_t to = (place * shared + head) * size, at = head * memory.places + place;
      float by_key = Store(keys + head * size, size, rows[0] + to);
      float by_value = Store(values + head * size, size, rows[1] + to);
      if constexpr (sizeof(T) == 1) scales[at] = by_key, scales[one + at] = by_value;
    }
    run(of.heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t head = begin; head < end; ++head) {
        int64_t of_memory = head / each;
        const float* by[2] = {scales + of_memory * memory.places,
                              scales + one + of_memory * memory.places};
        Attend(all.data() + head * size, memory, rows[0] + of_memory * size,
               rows[1] + of_memory * size, sizeof(T) == 1 ? by : nullptr, place,
               scores.data() + head * (place + 1), read.data() + head * size);
      }
    });
    w = output.Of(layer);
    added(output, packed::Rows<X>(read.data(), 1, of.heads * size, w, output.bits), layer);
    Norm(x, norms + of.width, of.width, of.epsilon, normed.data());
    w = gates.Of(layer);
    packed::Rows<X> inner(normed.data(), 1, of.width, w, gates.bits);
    run(of.inner, 16, [&](int64_t begin, int64_t end) {
      float *gate = hidden.data(), *up = gate + of.inner;
      multiply(gates)(inner, w, begin, end, gate);
      multiply(gates)(inner, w, begin + of.inner, end + of.inner, gate);
      for (int64_t i = begin; i < end; ++i) {
        float e = Exp(-std::fabs(gate[i]));  // silu is gate / (1 + e^-gate)
        gate[i] *= up[i] * (gate[i] > 0 ? 1 : e) / (1 + e);
      }
    });
    w = down.Of(layer);
    added(down, packed::Rows<X>(hidden.data(), 1, of.inner, w, down.bits), layer);
  }
}

}  // namespace decoder

#endif  // REDUCTION_DECODER_H_
