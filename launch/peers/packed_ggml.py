"""ggml's product with weights in Q4_0, as llama.cpp does it: a kind of packed_others.py.

llama-cpp-python has ggml's C libraries; they are called as ggml.h and ggml-backend.h have them.
"""

import ctypes
import os
import pathlib

import numpy as np

F32, Q4_0 = 0, 2  # of ggml_type
POINTERS = (
  'ggml_init', 'ggml_new_tensor_2d', 'ggml_mul_mat', 'ggml_new_graph_custom',
  'ggml_backend_cpu_init', 'ggml_backend_get_device', 'ggml_backend_dev_backend_reg',
  'ggml_backend_reg_get_proc_address', 'ggml_backend_alloc_ctx_tensors',
  'ggml_backend_alloc_ctx_tensors_from_buft',
)  # fmt: skip


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def silent(level, text, data):
  """A ggml_log_callback."""
  del level, text, data


class Params(ctypes.Structure):
  """ggml_init_params."""

  _fields_ = [('size', ctypes.c_size_t), ('buffer', ctypes.c_void_p), ('no_alloc', ctypes.c_bool)]


class Library:
  """ggml inside llama-cpp-python: whatever part of it has a function, found by name."""

  def __init__(self):
    import llama_cpp

    folder = pathlib.Path(llama_cpp.__file__).parent / 'lib'
    names = ('ggml-base', 'ggml-cpu', 'ggml')
    self.parts = [ctypes.CDLL(str(folder / f'lib{n}.so'), ctypes.RTLD_GLOBAL) for n in names]

  def __getattr__(self, name):
    found = next(getattr(part, name) for part in self.parts if hasattr(part, name))
    setattr(self, name, found)
    return found


def library() -> Library:
  """ggml, with the types of what is called."""
  lib = Library()
  for name in POINTERS:
    getattr(lib, name).restype = ctypes.c_void_p
  lib.ggml_nbytes.restype = lib.ggml_quantize_chunk.restype = ctypes.c_size_t
  lib.ggml_backend_buft_name.restype = ctypes.c_char_p
  lib.ggml_log_set(silent, None)
  return lib


def q4_0(rows, columns, count, copies, group):
  """run() -> all products, with weights in the order that ggml finds best here.

  Its groups have 32 rows, whatever group is; inputs are rounded to 8 bits in groups of 32.
  """
  del group
  lib, p, n = library(), ctypes.c_void_p, ctypes.c_int64
  backend = p(lib.ggml_backend_cpu_init())
  lib.ggml_backend_cpu_set_n_threads(backend, os.cpu_count())
  context = lambda tensors: p(lib.ggml_init(Params(tensors * 1_000 + 1_000_000, None, True)))
  held, made = context(copies), context(4 * copies)
  weights = [p(lib.ggml_new_tensor_2d(held, Q4_0, n(rows), n(columns))) for _ in range(copies)]
  ordered = repacked(lib, backend)
  if ordered:
    assert lib.ggml_backend_alloc_ctx_tensors_from_buft(held, ordered)
  else:
    assert lib.ggml_backend_alloc_ctx_tensors(held, backend)
  w = np.random.default_rng(0).standard_normal((columns, rows), np.float32)
  size = lib.ggml_nbytes(weights[0])
  packed = np.empty(size, np.uint8)
  lib.ggml_quantize_chunk(
    Q4_0, p(w.ctypes.data), p(packed.ctypes.data), n(0), n(columns), n(rows), None
  )
  for weight in weights:
    lib.ggml_backend_tensor_set(weight, p(packed.ctypes.data), ctypes.c_size_t(0),
                                ctypes.c_size_t(size))  # fmt: skip
  x = p(lib.ggml_new_tensor_2d(made, F32, n(rows), n(count)))
  graph = p(lib.ggml_new_graph_custom(made, ctypes.c_size_t(2 * copies + 8), False))
  for weight in weights:
    lib.ggml_build_forward_expand(graph, p(lib.ggml_mul_mat(made, weight, x)))
  assert lib.ggml_backend_alloc_ctx_tensors(made, backend)
  given = np.random.default_rng(1).standard_normal((count, rows), np.float32)
  lib.ggml_backend_tensor_set(x, p(given.ctypes.data), ctypes.c_size_t(0),
                              ctypes.c_size_t(given.nbytes))  # fmt: skip

  def run():
    assert lib.ggml_backend_graph_compute(backend, graph) == 0

  return run


def repacked(lib, backend):
  """The kind of memory in which weights lie as the processor's kernels read them, or None."""
  device = ctypes.c_void_p(lib.ggml_backend_get_device(backend))
  registry = ctypes.c_void_p(lib.ggml_backend_dev_backend_reg(device))
  found = lib.ggml_backend_reg_get_proc_address(registry, b'ggml_backend_dev_get_extra_bufts')
  if not found:
    return None
  kinds = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(found)(device)
  for kind in kinds:
    if not kind:
      return None
    if b'REPACK' in lib.ggml_backend_buft_name(ctypes.c_void_p(kind)).upper():
      return ctypes.c_void_p(kind)
  return None
