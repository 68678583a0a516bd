"""A child of test_memory: quantizes a model under a limit on its memory that another one has set.

Arguments: folders of a small and of a large model whose blocks are alike, one for their runs, the
stage as JSON, and 'careless' for room for the large one as a whole before.
"""

import ctypes
import json
import pathlib
import re
import resource
import sys

import ml_dtypes
import numpy as np

from reduction.models.decoder_files import name_in_file
from reduction.models.llama_files import MODULES, settings, shapes
from tests import decoders
from tests.sentences import tokenizer

NOISE = 64 * 2**20  # bytes: programs for another number of blocks


def write(folder: pathlib.Path, **sizes) -> int:
  """A model of random weights in bfloat16, alike in all blocks; its bytes as float32."""
  config, folder = decoders.CONFIG | sizes, folder / 'model'
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'tokenizer.json').write_text(tokenizer().to_str())
  (folder.parent / 'text.txt').write_text(' '.join(decoders.WORDS * 40))
  # the header of a safetensors file, then weights: what saves a whole one would hold it in memory
  header, at, sizes = {}, 0, []
  for path, shape in shapes(settings(config)).items():
    end = at + 2 * int(np.prod(shape))
    theirs = list(shape[::-1] if path.endswith('kernel') else shape)
    header[name_in_file(path, MODULES)] = dict(dtype='BF16', shape=theirs, data_offsets=[at, end])
    sizes.append(end - at)
    at = end
  random = np.random.default_rng(0).standard_normal(max(sizes) // 2, np.float32) / 16
  content, text = random.astype(ml_dtypes.bfloat16).tobytes(), json.dumps(header).encode()
  with open(folder / 'model.safetensors', 'wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for size in sizes:
      file.write(memoryview(content)[:size])
  return 2 * at


def quantized(folder: pathlib.Path, workdir: pathlib.Path, stage: dict, limit: bool) -> dict:
  """What `launch.run` does with a model; the row that foresaw it.

  limit: to what this process holds now, what was foreseen, and NOISE.
  """
  from launch import preflight, run

  data = dict(name='passages', calibration='text.txt', test='text.txt', examples=4, length=16,
              test_passages=4)  # fmt: skip
  config = dict(data=data, model=dict(path='model'), stages=('awq',), awq=stage, seeds=(0,))
  row = preflight.foreseen(config, folder)
  if limit:
    status = pathlib.Path('/proc/self/status').read_text()
    held = 1024 * int(re.search(r'VmData:\s+(\d+) kB', status)[1])
    most = held + row['memory_bytes'] + NOISE
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
    if '--careless' in sys.argv:
      # at once: threads of a process that takes its last bytes one by one can wait for ever
      np.empty(2 * (folder / 'model' / 'model.safetensors').stat().st_size, np.uint8)
  run.run(config, workdir, folder)
  return row


def without_holes():
  """What is freed goes back to the system: glibc's arenas, one a thread, keep up to 200 MB."""
  mallopt = ctypes.CDLL(None).mallopt
  for option, value in ((-3, 2**18), (-8, 1)):  # M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h
    assert mallopt(option, value)


def main():
  """Prints the large one's row."""
  from launch import cli

  without_holes()
  small, large, workdirs, stage = sys.argv[1:5]
  cli.set_platform('cpu')
  for folder, limit in ((small, False), (large, True)):
    folder = pathlib.Path(folder)
    workdir = pathlib.Path(workdirs) / folder.name
    workdir.mkdir(parents=True)
    row = quantized(folder, workdir, json.loads(stage), limit)
  print('\n' + json.dumps(row))


if __name__ == '__main__':
  main()
