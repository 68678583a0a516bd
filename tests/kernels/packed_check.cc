// Products of packed.h beside sums in double of the same rounded x, every mode; the worst
// difference relative to the largest result of each is printed, then what tokens of decoder.h come
// to. `unpacked` is there to count instructions in.

#include "decoder.h"

#include <cstdio>
#include <random>

namespace packed {

PACKED_COLUMNS(template);

}  // namespace packed

extern "C" void unpacked(const uint8_t* data, packed::Codes<4>* codes) {
  *codes = packed::Unpacked<4>(data);
}

namespace {

std::mt19937 generator(0);

// The code of a row of column c of a tile.
int Code(const uint8_t* tile, int64_t row, int c, int bits) {
  const uint8_t* at = tile + row / 64 * 64 * bits + 8 * c + row % 8;
  int i = row % 64 / 8;
  if (bits == 8) return at[64 * i];
  if (bits == 4) return at[64 * (i / 2)] >> (4 * (i % 2)) & 15;
  if (i < 6) return at[64 * (i / 2)] >> (3 * (i % 2)) & 7;
  return at[64 * (i - 6)] >> 6 | (at[128] >> i & 1) << 2;
}

template <int kBits, typename X>
double Worst(bool half, int64_t rows, int64_t columns, int size, int64_t count) {
  int64_t groups = (rows + size - 1) / size, tiles = (columns + 7) / 8;
  int64_t bytes = (groups * size + 63) / 64 * 64 * kBits;
  std::vector<uint8_t> data(tiles * bytes), zero(tiles * groups * 8);
  for (auto& byte : data) byte = generator();
  for (auto& z : zero) z = generator() % (1 << kBits);
  std::vector<float> numbers(zero.size());
  std::vector<uint16_t> halves(numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    int fraction = generator() % 1024;
    halves[i] = 0x3c00 + fraction;
    numbers[i] = 1 + fraction / 1024.0f;
  }
  const void* scale = half ? (const void*)halves.data() : numbers.data();
  std::vector<float> x(count * rows), y(count * columns);
  for (auto& v : x) v = int(generator() % 2001) / 1000.0f - 1;
  packed::Weight w{data.data(), scale, half, zero.data(), columns, groups, size};
  packed::Rows<X> made(x.data(), count, rows, w, kBits);
  packed::Columns<kBits, X>(made, w, 0, columns, y.data());
  auto integer = [&](int64_t m, int64_t k) {
    const X* unit = &made.q[m * made.length + k / 64 * 64];
    if (sizeof(X) == 1 || !packed::kHalved<kBits>) return int(unit[k % 64]);
    const int8_t* halved = (const int8_t*)unit;
    return 256 * halved[64 + k % 64] + halved[k % 64];
  };
  double most = 0, worst = 0;
  for (int64_t m = 0; m < count; ++m) {
    for (int64_t n = 0; n < columns; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < groups * size; ++k) {
        int64_t g = k / size, at = (n / 8 * groups + g) * 8 + n % 8;
        double step = made.by[m * groups + g], q = step * integer(m, k);
        if (std::fabs(q - (k < rows ? x[m * rows + k] : 0)) > 0.51 * step) return 1;
        sum += q * numbers[at] * (Code(&data[n / 8 * bytes], k, n % 8, kBits) - zero[at]);
      }
      most = std::max(most, std::fabs(sum));
      worst = std::max(worst, std::fabs(sum - y[m * columns + n]));
    }
  }
  return worst / most;
}

template <int kBits, typename X>
double Worst(bool half) {
  double worst = 0;
  for (int size : {32, 64, 128, 192, 320, 8192}) {
    for (int64_t count : {1, 3, 15, 33}) {
      worst = std::max(worst, Worst<kBits, X>(half, 2 * size - 7, 19, size, count));
    }
  }
  return worst;
}

// Random weights of all layers as decoder.h takes them.
struct Made {
  std::vector<uint8_t> data, zero;
  std::vector<float> scale;
  decoder::Linear linear;

  Made(int64_t layers, int64_t rows, int64_t columns, int64_t bits) {
    int64_t groups = rows / 64;
    data.resize(layers * columns * rows * bits / 8);
    zero.resize(layers * columns * groups);
    for (auto& byte : data) byte = generator();
    for (auto& z : zero) z = generator() % (1 << bits);
    for (size_t i = 0; i < zero.size(); ++i) scale.push_back((1 + generator() % 8) / 256.0f);
    linear = {{data.data(), scale.data(), false, zero.data(), columns, groups, 64}, bits};
  }
};

// Prints x after each of three tokens through two layers, every fourth unit.
template <typename X, typename T>
void Tokens(const char* mode, int64_t bits) {
  constexpr int64_t kLayers = 2, kWidth = 64, kHeads = 4, kShared = 2, kSize = 16, kInner = 192;
  constexpr int64_t kPlaces = 3;
  generator.seed(1);
  auto number = [] { return int(generator() % 2001) / 1000.0f - 1; };
  Made together(kLayers, kWidth, (kHeads + 2 * kShared) * kSize, bits);
  Made output(kLayers, kHeads * kSize, kWidth, bits), gates(kLayers, kWidth, 2 * kInner, bits);
  Made down(kLayers, kInner, kWidth, bits);
  std::vector<float> norms(kLayers * 2 * kWidth), turns(kSize / 2), x(kWidth);
  std::vector<float> biases, heads;  // as Qwen2 and Qwen3 have them
  for (auto& v : norms) v = 1 + number() / 4;
  for (int64_t i = 0; bits == 3 && i < kLayers * 2 * kSize; ++i) heads.push_back(1 + number() / 4);
  for (int64_t i = 0; bits == 3 && i < kLayers * together.linear.w.columns; ++i) {
    biases.push_back(number());
  }
  decoder::Vectors vectors{norms.data(), biases.empty() ? nullptr : biases.data(),
                           heads.empty() ? nullptr : heads.data()};
  for (size_t i = 0; i < turns.size(); ++i) turns[i] = 1.0f / (1 << i);
  std::vector<T> keys(kLayers * kPlaces * kShared * kSize), values(keys.size());
  std::vector<float> scales(kLayers * 2 * kPlaces * kShared);
  decoder::Memory<T> memory{keys.data(), values.data(), scales.data(), kPlaces, kShared, kSize};
  auto run = [](int64_t count, int64_t unit, const auto& work) {
    for (int64_t i = 0; i < count; i += 2 * unit) work(i, std::min(count, i + 2 * unit));
  };
  for (int64_t place = 0; place < kPlaces; ++place) {
    for (auto& v : x) v = number();
    decoder::Token<X, T>({kLayers, kWidth, kHeads, kInner, 1e-5f}, together.linear, output.linear,
                         gates.linear, down.linear, vectors, turns.data(), memory, place, x.data(),
                         run);
    std::printf("token %s", mode);
    for (int64_t i = 0; i < kWidth; i += 4) std::printf(" %.7g", x[i]);
    std::printf("\n");
  }
}

}  // namespace

int main() {
  std::printf("3 16 %g\n", Worst<3, int16_t>(true));
  std::printf("4 16 %g\n", Worst<4, int16_t>(true));
  std::printf("8 16 %g\n", Worst<8, int16_t>(false));
  std::printf("3 8 %g\n", Worst<3, int8_t>(false));
  std::printf("4 8 %g\n", Worst<4, int8_t>(true));
  Tokens<int16_t, float>("exact", 4);
  Tokens<int16_t, float>("exact", 3);
  Tokens<int16_t, float>("exact", 8);
  Tokens<int8_t, float>("rounded", 4);
  Tokens<int16_t, uint16_t>("rounded", 4);
  Tokens<int16_t, int8_t>("rounded", 4);
}
