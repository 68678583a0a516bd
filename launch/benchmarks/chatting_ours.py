"""The project's side of the benchmark of language models; see `launch.benchmarks.chatting`."""

import functools
import json
import sys
import time

import jax
import jax.numpy as jnp

from launch.benchmarks.chatting import KINDS, READ, alike
from launch.benchmarks.ours import answer
from launch.benchmarks.roofline import rounded
from reduction.chat.runtime import Runtime
from reduction.chat.sampling import Sampling
from reduction.errors import require
from reduction.kernels import native
from reduction.models.served import unpacked
from reduction.opened import language_model

TEXT = 'The quick brown fox jumps over the lazy dog, and then it goes home to sleep. '
SIZE = 2**28  # bytes, beyond any cache


def side(settings: dict):
  """(ask(kind) -> tokens a second of both stages, the tokens of the prompt)."""
  require(native.ready(), 'the native kernel is not there: install g++')
  found = language_model(settings['model'])
  prompt, most = settings['prompt'], settings['answer']
  tokens = found.encode(TEXT * (prompt // 4 + 1))[:prompt]
  net, runtimes, data = rounded(found.net, settings['group']), {}, jnp.ones(SIZE, jnp.uint8)
  read = jax.jit(native.read)

  def write(going):
    going.forget()
    return list(going.continued(tokens, Sampling(), jax.random.key(0), most=most))

  places = prompt + most + 1
  floats = functools.cache(lambda: write(Runtime(unpacked(net), context=places, head=8)))

  def runtime(kind):
    eight, stored, at_once = KINDS[kind]
    made = Runtime(net, context=places, stored=stored, head=8, at_once=at_once)
    if eight:
      made.round_inputs(tokens[:8])
    return made

  def ask(kind: str) -> dict:
    if kind == READ:
      began = time.perf_counter()
      jax.block_until_ready(read(data))
      return dict(bytes_per_s=SIZE / (time.perf_counter() - began))
    if kind not in runtimes:
      runtimes[kind] = runtime(kind)
    going = runtimes[kind]
    written, took = write(going), going.times
    return dict(  # the end of the prompt gives the first token
      prompt_per_s=prompt / took['read_s'], answer_per_s=(len(written) - 1) / took['wrote_s'],
      bytes=going.bytes_per_token(), text=found.decode(written), same=alike(written, floats()),
    )  # fmt: skip

  return ask, tokens


def main():
  """The settings are the first line of stdin."""
  ask, tokens = side(json.loads(sys.stdin.readline()))
  answer(ask, about=f'jax {jax.__version__}', tokens=tokens)


if __name__ == '__main__':
  main()
