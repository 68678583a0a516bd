// decoder.h as XLA calls it, on the threads of its pool.

#include "decoder.h"

#include "team.h"

namespace ffi = xla::ffi;

namespace {

using Floats = ffi::Buffer<ffi::F32>;
using Bytes = ffi::Buffer<ffi::U8>;

// One linear's arrays, and what one block has of it.
struct Given {
  Bytes data;
  ffi::AnyBuffer scale;
  Bytes zero;
  int64_t columns, rows;
};

// False where the shapes are not those of `layers` such weights.
bool Fits(const Given& given, int64_t layers, int64_t bits, int64_t size, bool eight,
          decoder::Linear* made) {
  auto of_data = given.data.dimensions(), of_scale = given.scale.dimensions();
  bool half = given.scale.element_type() == ffi::F16;
  int64_t groups = of_scale[1];
  *made = {{given.data.typed_data(), given.scale.untyped_data(), half, given.zero.typed_data(),
            given.columns, groups, static_cast<int>(size)},
           bits};
  bool known = bits == 3 || bits == 4 || (bits == 8 && !eight);
  known = known && (size == 32 || (size > 0 && size % 64 == 0));
  return known && given.columns % packed::kTile == 0 &&
         (half || given.scale.element_type() == ffi::F32) && given.rows <= groups * size &&
         given.rows > (groups - 1) * size && of_data[1] == made->w.Stride(bits) &&
         of_data[0] == layers * given.columns / packed::kTile && of_scale[0] == of_data[0] &&
         of_scale[2] == packed::kTile;
}

// See decoder.h; keys, values [layers, 1, places, heads * size] and their scales are also results,
// in the same memory. biases, head_norms: empty where there are none. sizes: bits and rows of a
// group of each linear in the order of arguments.
ffi::Error Decode(ffi::ThreadPool pool, Floats x, ffi::AnyBuffer keys, ffi::AnyBuffer values,
                  Floats scales, ffi::Buffer<ffi::S32> place, Floats norms, Floats biases,
                  Floats head_norms, Floats turns, Bytes data_0, ffi::AnyBuffer scale_0,
                  Bytes zero_0, Bytes data_1, ffi::AnyBuffer scale_1, Bytes zero_1, Bytes data_2,
                  ffi::AnyBuffer scale_2, Bytes zero_2, Bytes data_3, ffi::AnyBuffer scale_3,
                  Bytes zero_3, ffi::ResultBuffer<ffi::F32> y, ffi::Result<ffi::AnyBuffer> new_keys,
                  ffi::Result<ffi::AnyBuffer> new_values, ffi::ResultBuffer<ffi::F32> new_scales,
                  int64_t heads, int64_t inner, float epsilon, ffi::Span<const int64_t> sizes,
                  bool eight, int64_t threads) {
  auto shape = keys.dimensions();
  if (shape.size() != 4 || turns.element_count() == 0) {
    return ffi::Error::InvalidArgument("packed decoder: shapes do not fit");
  }
  int64_t layers = shape[0], places = shape[2], size = 2 * turns.element_count(),
          shared = shape[3] / size;
  int64_t width = x.element_count();
  Given given[4] = {{data_0, scale_0, zero_0, (heads + 2 * shared) * size, width},
                    {data_1, scale_1, zero_1, width, heads * size},
                    {data_2, scale_2, zero_2, 2 * inner, width},
                    {data_3, scale_3, zero_3, width, inner}};
  decoder::Linear linears[4];
  auto holds = [](const Floats& buffer, int64_t count) {
    return int64_t(buffer.element_count()) == count;
  };
  auto may_hold = [&](const Floats& buffer, int64_t count) {
    return holds(buffer, 0) || holds(buffer, count);
  };
  bool eight_bits = keys.element_type() == ffi::S8;
  bool fits = values.element_type() == keys.element_type() && values.dimensions() == shape &&
              holds(scales, eight_bits ? layers * 2 * shared * places : 0) && shared > 0 &&
              sizes.size() == 8 && shape[1] == 1 && holds(norms, layers * 2 * width) &&
              may_hold(biases, layers * given[0].columns) &&
              may_hold(head_norms, layers * 2 * size) && shared * size == shape[3] &&
              heads % shared == 0;
  for (int i = 0; i < 4 && fits; ++i) {
    fits = Fits(given[i], layers, sizes[2 * i], sizes[2 * i + 1], eight, &linears[i]);
  }
  int64_t at = place.typed_data()[0];
  if (!fits || at < 0 || at >= places) {
    return ffi::Error::InvalidArgument("packed decoder: shapes do not fit");
  }
  auto there = [&](const Floats& buffer) {
    return holds(buffer, 0) ? nullptr : buffer.typed_data();
  };
  decoder::Vectors vectors{norms.typed_data(), there(biases), there(head_norms)};
  decoder::Sizes of{layers, width, heads, inner, epsilon};
  team::Team team(pool, threads);
  auto run = [&](int64_t count, int64_t unit, const auto& work) { team.Run(count, unit, work); };
  auto token = [&](auto* keys, auto* values) {
    using T = std::remove_pointer_t<decltype(keys)>;
    decoder::Memory<T> memory{keys, values, new_scales->typed_data(), places, shared, size};
    auto call = eight ? decoder::Token<int8_t, T, decltype(run)>
                      : decoder::Token<int16_t, T, decltype(run)>;
    call(of, linears[0], linears[1], linears[2], linears[3], vectors, turns.typed_data(), memory,
         at, y->typed_data(), run);
  };
  std::memcpy(y->typed_data(), x.typed_data(), width * sizeof(float));
  void *to_keys = new_keys->untyped_data(), *to_values = new_values->untyped_data();
  if (keys.element_type() == ffi::F32) {
    token((float*)to_keys, (float*)to_values);
  } else if (keys.element_type() == ffi::BF16) {
    token((uint16_t*)to_keys, (uint16_t*)to_values);
  } else if (keys.element_type() == ffi::S8) {
    token((int8_t*)to_keys, (int8_t*)to_values);
  } else {
    return ffi::Error::InvalidArgument("packed decoder: memory of another type");
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(DecoderToken, Decode,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Floats>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Bytes>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Bytes>()
                                  .Arg<Bytes>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Bytes>()
                                  .Arg<Bytes>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Bytes>()
                                  .Arg<Bytes>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Bytes>()
                                  .Ret<Floats>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<Floats>()
                                  .Attr<int64_t>("heads")
                                  .Attr<int64_t>("inner")
                                  .Attr<float>("epsilon")
                                  .Attr<ffi::Span<const int64_t>>("sizes")
                                  .Attr<bool>("eight")
                                  .Attr<int64_t>("threads"));
