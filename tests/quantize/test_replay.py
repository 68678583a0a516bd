"""Where linears that share an input are judged, and that it is as the paper's loop does it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.models import bert, gpt, llama
from reduction.qtensor import Scheme
from reduction.quantize import awq, inputs, replay
from reduction.quantize.calibrate import calibrate
from reduction.quantize.rtn import snapped
from tests.quantize.blocks import filled

SIZES = dict(layers=1, width=16, heads=4, inner=24, vocabulary=9, positions=4)
READ = 'attention/query', 'attention/key', 'attention/value'
GATED = 'mlp/gate', 'mlp/up'
X = np.random.default_rng(0).normal(size=(2, 4, 16)).astype(np.float32) * np.arange(1, 17)
TOKENS = np.array([[3, 1, 4, 0], [1, 5, 0, 0]], np.int32)
LLAMA, GPT = llama(**SIZES, kv_heads=2).layer, gpt(**SIZES).layer


def output(module, place):
  """(params, x) -> what the part of a module at this path gives, by Flax's own record."""
  name = place.split('/')

  def of(params, x):
    mine = lambda part, _: list(part.path) == name
    _, kept = module.apply(
      {'params': params}, x, capture_intermediates=mine, mutable='intermediates'
    )
    return dict(tree.named(kept))[f'intermediates/{place}/__call__/0']

  return of


@functools.cache
def found(module, of_tokens=False):
  """(params, inputs, replays) of a module."""
  x = TOKENS if of_tokens else X
  params = filled(module, x)
  by = inputs.find(module, params, x)
  return params, by, replay.find(module, params, x, by)


ENCODER = bert(layers=1, width=16, heads=2, inner=24, vocabulary=9, positions=4, classes=0)


@pytest.mark.parametrize(
  'module, places',
  [
    (LLAMA, {READ: 'attention', GATED: 'mlp'}),
    (llama(**SIZES, head_norm=True, size=8, bias=True).layer, {READ: 'attention', GATED: 'mlp'}),
    (llama(**SIZES, activation='gelu').layer, {READ: 'attention', GATED: 'mlp'}),
    (GPT, {READ: 'attention'}),
    (gpt(**SIZES, activation='relu').layer, {READ: 'attention'}),
    (ENCODER, {tuple(f'layer0/{name}' for name in READ): 'layer0/attention'}),
  ],
  ids=['Llama', 'Qwen3', 'Gemma', 'GPT-2', 'OPT', 'BERT'],
)
def test_linears_are_judged_where_the_paper_judges_them(module, places):
  params, _, by = found(module, module is ENCODER)
  assert set(by) == {linears[0] for linears in places}

  @jax.jit
  def both(params, x):
    mine = [by[linears[0]].capture(params, x).exact for linears in places]
    return mine, [output(module, place)(params, x) for place in places.values()]

  for mine, flax in zip(*both(params, TOKENS if module is ENCODER else X)):
    assert np.allclose(mine, flax, rtol=1e-5, atol=1e-5)


def papers(module, params, x, linears, place, scheme, mean):
  """The search on tokens, a candidate at a time: (losses, scales)."""
  give, flat, losses, scales = jax.jit(output(module, place)), dict(tree.named(params)), [], []
  exact = np.asarray(give(params, x), np.float64)
  for i in range(20):
    s = np.maximum(mean ** (i / 20), 1e-4)[:, None]
    s = s / np.sqrt(s.max() * s.min())
    new = {f'{n}/kernel': snapped(flat[f'{n}/kernel'] * s, scheme) / s for n in linears}
    off = np.asarray(give(tree.nest(flat | new), x), np.float64) - exact
    losses.append((off**2).sum() / (exact**2).sum())
    scales.append(s[:, 0])
  return np.array(losses), scales[int(np.argmin(losses))]


@pytest.mark.parametrize(
  'module, linears, place',
  [(LLAMA, READ, 'attention'), (LLAMA, GATED, 'mlp'), (GPT, READ, 'attention')],
  ids=['Llama attention', 'Llama mlp', 'GPT attention'],
)
def test_block_losses_and_scales_are_the_papers(module, linears, place):
  params, by, replays = found(module)
  scheme, one = Scheme(3, 8), replays[linears[0]]
  (mine,) = (i for i in by if i.linears == linears)
  seen = calibrate(module, params, [X], [mine])[linears[0]]
  losses, scale = papers(module, params, X, linears, place, scheme, np.asarray(seen.mean))
  kernels = {n: dict(tree.named(params))[f'{n}/kernel'] for n in linears}
  how = dict(scheme=scheme, loss=one.loss, on=one.capture(params, X))
  best = awq.search(kernels, seen, mine.ties, **how)
  assert np.allclose(best.losses, losses, rtol=1e-3) and best.losses.min() <= best.losses[0]
  assert np.allclose(best.scale, scale, rtol=1e-4)
  held = one.capture(params, X[:, ::-1])
  best = awq.search(kernels, seen, mine.ties, **how, held=held)
  on_held = lambda s: one.loss(awq.through(kernels, s, scheme), kernels, held)
  assert on_held(best.scale) <= on_held(jnp.ones(16))


def test_padding_does_not_judge():
  params, _, by = found(ENCODER, True)
  (one,) = by.values()
  kernels = {n: dict(tree.named(params))[f'{n}/kernel'] for n in (f'layer0/{n}' for n in READ)}
  new = tree.map(lambda w: snapped(w, Scheme(2, 8)), kernels)
  on = one.capture(params, TOKENS, jnp.asarray(TOKENS > 0))
  off = jnp.where((TOKENS > 0)[..., None], 0.0, 7.0)
  moved = on._replace(exact=on.exact + off)
  assert one.loss(new, kernels, on) == one.loss(new, kernels, moved) > 0
  every = one.capture(params, TOKENS)
  assert one.loss(new, kernels, every) != one.loss(new, kernels, on)


class Beside(nn.Module):
  """Linears beside each other. apart: what they make leaves as two results."""

  apart: bool

  @nn.compact
  def __call__(self, x):
    h = nn.RMSNorm(name='norm')(x)
    one, other = nn.relu(nn.Dense(8, name='one')(h)), nn.tanh(nn.Dense(8, name='other')(h))
    return (one, other) if self.apart else x.sum(-1, keepdims=True) * one + other


def test_parallel_branches_are_judged_at_their_sum_or_apart():
  params, _, by = found(Beside(False))
  exact = by['one'].capture(params, X).exact
  assert np.allclose(exact, Beside(False).apply({'params': params}, X), rtol=1e-5, atol=1e-5)
  assert found(Beside(True))[2] == {}


def test_examples_are_chosen_evenly_and_hold_no_more_tokens():
  batches = [np.arange(3)[:, None] + np.zeros(4), 3 + np.arange(2)[:, None] + np.zeros(4)]
  assert replay.chosen(batches, 3)[:, 0].tolist() == [0, 2, 4]
  params, by, _ = found(LLAMA)
  counts = lambda tokens, held=(): [
    None if on is None else len(on.exact)
    for on in replay.judges(LLAMA, params, by, tokens, [X, X], held)['mlp/gate'][1:]
  ]
  assert counts(8) == [2, None] and counts(1) == [1, None]
  assert counts(99, [X]) == [2, 2]  # as many of either
