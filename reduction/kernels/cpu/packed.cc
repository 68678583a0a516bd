// The products of packed.h as XLA calls them, on the threads of its pool.

#include "packed.h"

#include "team.h"

namespace ffi = xla::ffi;

namespace packed {

PACKED_COLUMNS(template);

}  // namespace packed

namespace {

constexpr int64_t kAlone = 1 << 16;  // bytes that one thread reads sooner than another is woken

template <typename X>
void Multiply(ffi::ThreadPool& pool, int64_t threads, const float* x, int64_t count, int64_t rows,
              const packed::Weight& w, int64_t bits, float* y) {
  packed::Rows<X> made(x, count, rows, w, bits);
  auto columns = bits == 4 ? packed::Columns<4, X> : packed::Columns<3, X>;
  if constexpr (sizeof(X) > 1) columns = bits == 8 ? packed::Columns<8, X> : columns;
  if (w.columns * w.groups * w.size * bits / 8 * count < kAlone) threads = 1;
  team::Team(pool, threads).Run(w.columns, 16, [&](int64_t begin, int64_t end) {
    columns(made, w, begin, end, y);
  });
}

ffi::Error Product(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::U8> data,
                   ffi::AnyBuffer scale, ffi::Buffer<ffi::U8> zero, ffi::ResultBuffer<ffi::F32> y,
                   int64_t bits, int64_t size, bool eight, int64_t threads) {
  auto shape = x.dimensions(), of_scale = scale.dimensions(), of_data = data.dimensions();
  bool half = scale.element_type() == ffi::F16;
  packed::Weight w{data.typed_data(),     scale.untyped_data(), half,
                   zero.typed_data(),     y->dimensions()[1],   of_scale[1],
                   static_cast<int>(size)};
  bool known = bits == 3 || bits == 4 || (bits == 8 && !eight);
  bool fits = known && (size == 32 || (size > 0 && size % 64 == 0)) &&
              (half || scale.element_type() == ffi::F32) && shape[1] <= w.groups * size &&
              shape[1] > (w.groups - 1) * size && of_data[1] == w.Stride(bits) &&
              of_data[0] == (w.columns + packed::kTile - 1) / packed::kTile &&
              of_scale[0] == of_data[0] && of_scale[2] == packed::kTile;
  if (!fits) return ffi::Error::InvalidArgument("packed product: shapes do not fit");
  auto multiply = eight ? Multiply<int8_t> : Multiply<int16_t>;
  multiply(pool, threads, x.typed_data(), shape[0], shape[1], w, bits, y->typed_data());
  return ffi::Error::Success();
}

// The sum of data, as words: what reading takes where it asks ahead, as products do. The last bytes
// that fill no 4,096 are left out.
ffi::Error Read(ffi::ThreadPool pool, ffi::Buffer<ffi::U8> data, ffi::ResultBuffer<ffi::U32> y,
                int64_t threads) {
  const uint64_t* words = reinterpret_cast<const uint64_t*>(data.typed_data());
  std::atomic<uint64_t> total{0};
  constexpr int64_t kWords = 512;
  team::Team team(pool, threads);
  team.Run(data.element_count() / 8 / kWords, 16, [&](int64_t begin, int64_t end) {
    uint64_t sums[16] = {};
    for (int64_t i = begin * kWords; i < end * kWords; i += 16) {
      for (int j = 0; j < 16; j += 8) __builtin_prefetch(words + i + j + packed::kAhead / 8);
      for (int j = 0; j < 16; ++j) sums[j] += words[i + j];
    }
    for (uint64_t sum : sums) total += sum;
  });
  y->typed_data()[0] = static_cast<uint32_t>(total);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(PackedProduct, Product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("size")
                                  .Attr<bool>("eight")
                                  .Attr<int64_t>("threads"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(ReadAll, Read,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::U32>>()
                                  .Attr<int64_t>("threads"));
