// Products of packed.h beside sums in double of the same rounded x, every mode; the worst difference
// relative to the largest result of each is printed. `unpacked` is there to count instructions in.

#include "packed.h"

#include <cstdio>
#include <random>

extern "C" void unpacked(const uint8_t* data, uint8_t* codes) {
  packed::Codes found = packed::FourBits(data);
  std::memcpy(codes, &found, 64);
}

namespace {

std::mt19937 generator(0);

int Code(const uint8_t* data, int row, int bits) {
  const uint8_t* unit = data + row / 64 * 8 * bits;
  row %= 64;
  if (bits == 8) return unit[row];
  if (bits == 4) return row < 32 ? unit[row] & 15 : unit[row - 32] >> 4;
  int low = unit[row % 16] >> (2 * (row / 16)) & 3, high = unit[16 + row / 8] >> (row % 8) & 1;
  return low | high << 2;
}

template <int kBits, typename X>
double Worst(bool half, int64_t rows, int64_t columns, int size, int64_t count) {
  int64_t groups = (rows + size - 1) / size, bytes = groups * size * kBits / 8;
  std::vector<uint8_t> data(columns * bytes), zero(columns * groups);
  for (auto& byte : data) byte = generator();
  for (auto& z : zero) z = generator() % (1 << kBits);
  std::vector<float> numbers(columns * groups);
  std::vector<uint16_t> halves(numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    halves[i] = 0x2c00 + generator() % 1024;
    numbers[i] = half ? packed::Float16(halves[i]) : (generator() % 100 + 1) / 64.0f;
  }
  const void* scale = half ? (const void*)halves.data() : numbers.data();
  std::vector<float> x(count * rows), y(count * columns);
  for (auto& v : x) v = int(generator() % 2001) / 1000.0f - 1;
  packed::Weight w{data.data(), scale, half, zero.data(), columns, groups, size};
  packed::Rows<X> made(x.data(), count, rows, w, kBits), plain(x.data(), count, rows, w, 8);
  packed::Columns<kBits, X>(made, w, 0, columns, y.data());
  double most = 0, worst = 0;
  for (int64_t m = 0; m < count; ++m) {
    for (int64_t n = 0; n < columns; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < groups * size; ++k) {
        int64_t g = k / size, at = n * groups + g;
        double q = double(plain.q[m * made.length + k]) * made.by[m * made.padded + g];
        sum += q * numbers[at] * (Code(&data[n * bytes], k, kBits) - zero[at]);
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
  for (int size : {64, 128, 192, 320}) {
    for (int64_t count : {1, 3, 15}) {
      worst = std::max(worst, Worst<kBits, X>(half, 5 * size - 7, 11, size, count));
    }
  }
  return worst;
}

}  // namespace

int main() {
  std::printf("3 16 %g\n", Worst<3, int16_t>(true));
  std::printf("4 16 %g\n", Worst<4, int16_t>(true));
  std::printf("8 16 %g\n", Worst<8, int16_t>(false));
  std::printf("3 8 %g\n", Worst<3, int8_t>(false));
  std::printf("4 8 %g\n", Worst<4, int8_t>(true));
}
