// Depthwise convolution of float32 images [n, h, w, c] by kernels [kh, kw, c], and its gradients.
//
// Each walks over vectors of channels. Sums are in one order, whatever the number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Images = ffi::Buffer<ffi::F32>;

constexpr int64_t kParts = 8;        // of the images, whose sums make the gradient of a kernel
constexpr int64_t kAlone = 1 << 18;  // products, below which a thread does not wake others

// As wide as a register: of wider ones the compiler makes a detour over memory.
#if defined(__AVX512F__)
constexpr int64_t kWide = 16;
#elif defined(__AVX__)
constexpr int64_t kWide = 8;
#else
constexpr int64_t kWide = 4;
#endif
typedef float Wide __attribute__((vector_size(4 * kWide)));
typedef float Four __attribute__((vector_size(16)));

template <typename V>
V At(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <typename V>
void Put(float* p, const V& v) {
  std::memcpy(p, &v, sizeof v);
}

template <typename V>
void AddProduct(V& sum, const float* a, const float* b) {
  sum += At<V>(a) * At<V>(b);
}

// Calls work(V{}, c) for vectors V of channels c and on that cover all channels.
template <typename Work>
void ByVector(int64_t channels, const Work& work) {
  int64_t c = 0;
  for (; c + kWide <= channels; c += kWide) work(Wide{}, c);
  for (; c + 4 <= channels; c += 4) work(Four{}, c);
  for (; c < channels; ++c) work(0.0f, c);
}

struct Shape {
  int64_t n, h, w, c, oh, ow, kh, kw, stride_h, stride_w, top, left;

  int64_t Input(int64_t i, int64_t y, int64_t z) const { return ((i * h + y) * w + z) * c; }
  int64_t Output(int64_t i, int64_t y, int64_t z) const { return ((i * oh + y) * ow + z) * c; }
};

// Of the `size` taps of a kernel along an axis, those that see an image of `seen` pixels at the
// output that begins at `from`, which may lie before its edge.
struct Taps {
  int64_t begin, end;
  Taps(int64_t from, int64_t size, int64_t seen)
      : begin(std::max<int64_t>(0, -from)), end(std::min(size, seen - from)) {}
};

// Of the outputs along an axis, those that saw the place `at` of the padded image: from `output` on
// downwards, by the taps `tap`, `tap` + stride, ... below `end`.
struct Seen {
  int64_t tap, output, end;
  Seen(int64_t at, int64_t stride, int64_t size, int64_t outputs) {
    output = std::min(at / stride, outputs - 1);
    tap = at - output * stride;
    end = std::min(size, at + 1);
  }
};

// Row oy of y of image n.
void Forward(const Shape& s, const float* x, const float* k, float* y, int64_t n, int64_t oy) {
  int64_t y0 = oy * s.stride_h - s.top;
  Taps rows(y0, s.kh, s.h);
  for (int64_t ox = 0; ox < s.ow; ++ox) {
    int64_t x0 = ox * s.stride_w - s.left;
    Taps columns(x0, s.kw, s.w);
    ByVector(s.c, [&](auto sum, int64_t c) {
      for (int64_t i = rows.begin; i < rows.end; ++i) {
        int64_t seen = s.Input(n, y0 + i, x0) + c, weights = i * s.kw * s.c + c;
        for (int64_t j = columns.begin; j < columns.end; ++j)
          AddProduct(sum, x + seen + j * s.c, k + weights + j * s.c);
      }
      Put(y + s.Output(n, oy, ox) + c, sum);
    });
  }
}

// Row iy of dx of image n: of each pixel over the outputs that saw it.
void OfImages(const Shape& s, const float* g, const float* k, float* dx, int64_t n, int64_t iy) {
  for (int64_t ix = 0; ix < s.w; ++ix) {
    Seen rows(iy + s.top, s.stride_h, s.kh, s.oh), columns(ix + s.left, s.stride_w, s.kw, s.ow);
    ByVector(s.c, [&](auto sum, int64_t c) {
      for (int64_t i = rows.tap, oy = rows.output; i < rows.end; i += s.stride_h, --oy) {
        int64_t given = s.Output(n, oy, columns.output) + c, weights = i * s.kw * s.c + c;
        for (int64_t j = columns.tap; j < columns.end; j += s.stride_w, given -= s.c)
          AddProduct(sum, g + given, k + weights + j * s.c);
      }
      Put(dx + s.Input(n, iy, ix) + c, sum);
    });
  }
}

// Adds to dk what row oy of image n gives to `taps` taps of row i of the kernel, from j on.
template <typename V, int taps>
void OfTaps(const Shape& s, const float* x, const float* g, float* dk, int64_t n, int64_t oy,
            int64_t i, int64_t j, int64_t c0) {
  const float* row = x + s.Input(n, oy * s.stride_h - s.top + i, 0) + c0;
  const float* given = g + s.Output(n, oy, 0) + c0;
  V sums[taps];
  float* at = dk + (i * s.kw + j) * s.c + c0;
  for (int t = 0; t < taps; ++t) sums[t] = At<V>(at + t * s.c);
  for (int64_t ox = 0; ox < s.ow; ++ox) {
    int64_t ix = ox * s.stride_w - s.left + j;
    V of = At<V>(given + ox * s.c);
    if (ix >= 0 && ix + taps <= s.w) {
      for (int t = 0; t < taps; ++t) sums[t] += At<V>(row + (ix + t) * s.c) * of;
    } else {
      for (int t = 0; t < taps; ++t)
        if (ix + t >= 0 && ix + t < s.w) sums[t] += At<V>(row + (ix + t) * s.c) * of;
    }
  }
  for (int t = 0; t < taps; ++t) Put(at + t * s.c, sums[t]);
}

// Adds to dk what row oy of image n gives to it.
template <typename V>
void OfKernel(const Shape& s, const float* x, const float* g, float* dk, int64_t n, int64_t oy,
              int64_t c0) {
  Taps rows(oy * s.stride_h - s.top, s.kh, s.h);
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    int64_t j = 0;
    for (; j + 5 <= s.kw; j += 5) OfTaps<V, 5>(s, x, g, dk, n, oy, i, j, c0);
    for (; j + 3 <= s.kw; j += 3) OfTaps<V, 3>(s, x, g, dk, n, oy, i, j, c0);
    for (; j < s.kw; ++j) OfTaps<V, 1>(s, x, g, dk, n, oy, i, j, c0);
  }
}

using Dimensions = ffi::Span<const int64_t>;

// Runs work(shape) if the parts of a shape fit each other.
template <typename Work>
ffi::Error WithShape(Dimensions x, Dimensions k, Dimensions y, Dimensions how, const Work& work) {
  bool fits = x.size() == 4 && k.size() == 4 && y.size() == 4 && how.size() == 4 && k[2] == 1 &&
              k[3] == x[3] && y[0] == x[0] && y[3] == x[3] && how[0] > 0 && how[1] > 0;
  if (!fits) return ffi::Error::InvalidArgument("depthwise convolution: shapes do not fit");
  work(Shape{x[0], x[1], x[2], x[3], y[1], y[2], k[0], k[1], how[0], how[1], how[2], how[3]});
  return ffi::Error::Success();
}

// Runs work(begin, end) over parts of 0..count on the threads of the pool.
template <typename Work>
void Share(ffi::ThreadPool& pool, int64_t threads, const Shape& s, int64_t count,
           const Work& work) {
  if (count == 0) return;
  if (s.n * s.oh * s.ow * s.kh * s.kw * s.c < kAlone) threads = 1;
  team::Team(pool, threads).Run(count, 1, work);
}

ffi::Error Value(ffi::ThreadPool pool, Images x, Images k, ffi::Result<Images> y, Dimensions how,
                 int64_t threads) {
  auto work = [&](const Shape& s) {
    Share(pool, threads, s, s.n * s.oh, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        Forward(s, x.typed_data(), k.typed_data(), y->typed_data(), row / s.oh, row % s.oh);
    });
  };
  return WithShape(x.dimensions(), k.dimensions(), y->dimensions(), how, work);
}

ffi::Error ValueOfImages(ffi::ThreadPool pool, Images g, Images k, ffi::Result<Images> dx,
                         Dimensions how, int64_t threads) {
  auto work = [&](const Shape& s) {
    Share(pool, threads, s, s.n * s.h, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        OfImages(s, g.typed_data(), k.typed_data(), dx->typed_data(), row / s.h, row % s.h);
    });
  };
  return WithShape(dx->dimensions(), k.dimensions(), g.dimensions(), how, work);
}

ffi::Error ValueOfKernel(ffi::ThreadPool pool, Images x, Images g, ffi::Result<Images> dk,
                         Dimensions how, int64_t threads) {
  auto work = [&](const Shape& s) {
    // parts do not depend on the number of threads, nor does the order in which they are added
    int64_t parts = std::min(s.n, kParts), size = s.kh * s.kw * s.c;
    std::vector<float> sums(parts * size);
    Share(pool, threads, s, parts, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part)
        for (int64_t n = s.n * part / parts; n < s.n * (part + 1) / parts; ++n)
          for (int64_t oy = 0; oy < s.oh; ++oy)
            ByVector(s.c, [&](auto v, int64_t c0) {
              OfKernel<decltype(v)>(s, x.typed_data(), g.typed_data(), &sums[part * size], n, oy,
                                    c0);
            });
    });
    float* total = dk->typed_data();
    std::fill_n(total, size, 0.0f);
    for (int64_t i = 0; i < parts * size; ++i) total[i % size] += sums[i];
  };
  return WithShape(x.dimensions(), dk->dimensions(), g.dimensions(), how, work);
}

auto Binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Images>()
      .Arg<Images>()
      .Ret<Images>()
      .Attr<Dimensions>("how")
      .Attr<int64_t>("threads");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(DepthwiseValue, Value, Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(DepthwiseOfImages, ValueOfImages, Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(DepthwiseOfKernel, ValueOfKernel, Binding());
