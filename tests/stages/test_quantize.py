"""Quantized nets: served without a change to their module, measured, saved, resumed."""

import types

import jax
import numpy as np
import pytest

from reduction import models, saved, stages, tree
from reduction.cost import cost
from reduction.errors import UsageError
from reduction.models.served import Served
from reduction.net import Net, create
from reduction.predict import logits
from reduction.qtensor import dequantize, is_packed
from reduction.quantize import plan as plans
from reduction.run import Run, chain

ADAM = dict(name='adam', learning_rate=1.2e-3)
TRAIN = stages.tune(steps=200, batch=60, every=100, optimizer=ADAM)
FOUR = dict(bits=4, group=32, examples=256)


def dense(net):
  """The same net with float kernels."""
  opened = jax.tree.map(
    lambda w: dequantize(w) if is_packed(w) else w, net.params, is_leaf=is_packed
  )
  return Net(net.module.module, opened, net.stats)


def test_a_chain_ends_in_a_packed_net(fresh, tmp_path):
  net, run = fresh((0, 1), workdir=tmp_path)
  prune = stages.lottery(rounds=1, rates=(('kernel', 0.5),), steps=100, batch=60, every=50,
                         optimizer=ADAM)  # fmt: skip
  small = stages.quantize(**FOUR, scaling='awq', clip=True, rounding='gptq')
  packed = chain(train=TRAIN, lottery=prune, quantize=small)(net, run)
  assert isinstance(packed.module, Served) and packed.masks is None
  kernels = {n for n, w in tree.named(packed.params, is_packed) if is_packed(w)}
  assert kernels == {'fc1/kernel', 'fc2/kernel'}  # the last layer is left
  opened, before = dense(packed), run.nets['lottery']
  for name, w in tree.named(opened.params):
    assert not np.asarray(w)[~np.asarray(dict(tree.named(before.masks))[name])].any(), name
  x = run.data.test.x
  assert np.allclose(logits(packed, x), logits(opened, x), atol=1e-5)
  accuracy = [(logits(n, x).argmax(-1) == run.data.test.y).mean() for n in (before, packed)]
  assert accuracy[1] > accuracy[0] - 0.03
  row = cost(packed, x[:1])
  assert (
    row['params'] == cost(before, x[:1])['params'] and row['macs'] == cost(before, x[:1])['macs']
  )
  by = [w.nbytes // 2 for _, w in tree.named(packed.params, is_packed) if is_packed(w)]
  assert sum(by) < row['bytes'][0] < sum(by) + 4 * (300 + 100 + 1010) + 200
  again = saved.read(tmp_path / 'nets' / 'quantize', models)
  assert np.array_equal(logits(again, x), logits(packed, x))
  rows = [r for r in run.rows if r['kind'] == 'quantized']
  assert [r['linear'] for r in rows] == ['fc1', 'fc2'] and rows[0]['exponent'] is None
  assert all(0 < e < 0.1 for r in rows for e in r['error'])


def test_a_quantized_encoder_is_the_same_from_disk(tmp_path, same):
  module = models.bert(layers=1, width=16, heads=2, inner=24, vocabulary=9, positions=8)
  words = np.random.default_rng(0).integers(1, 9, (64, 8), np.int32)
  words[:, 5:] *= np.arange(64)[:, None] % 2  # every other text ends early
  data = types.SimpleNamespace(train=types.SimpleNamespace(x=words))
  net = create(module, jax.random.split(jax.random.key(0), 2), words[:1])
  stage = stages.quantize(bits=3, group=8, examples=64, batch=16, scaling='awq')
  run, kept = Run(data, (0, 1)), Run(data, (0, 1), workdir=tmp_path)
  assert same(stage(net, run).params, stage(net, kept).params)
  rows = [row for row in kept.rows if row['kind'] == 'quantized']
  assert rows == [row for row in run.rows if row['kind'] == 'quantized'] and len(rows) == 6
  scaled = [row['linear'] for row in rows if row['scaled'] == 'yes']
  assert scaled == ['layer0/attention/output']  # other linears' inputs the sums read too
  assert all(0 < e < 0.2 for r in rows for e in r['error'])


def test_a_plan_of_each_seed_is_applied_without_a_search(fresh, tmp_path, same, monkeypatch):
  net, run = fresh((0, 3), workdir=tmp_path)
  how = FOUR | dict(scaling='awq', clip=True)
  found = stages.quantize(**how)(net, run)
  path = tmp_path / 'files' / 'plan' / 'plan.npz'
  plan = plans.read(path)
  assert set(plan) == {'seed0', 'seed3'} and not same(plan['seed0'], plan['seed3'])
  monkeypatch.setattr(plans, 'search', None)
  again = stages.quantize(**how, plan=str(path))(net, fresh((0, 3))[1])
  assert same(again.params, found.params)
  alone, one = fresh((3,))
  one = stages.quantize(**how, plan=str(tmp_path / 'three.npz'))
  plans.write(tmp_path / 'three.npz', dict(seed3=plan['seed3']))
  single = one(alone, fresh((3,))[1])
  assert same(single.params, tree.map(lambda w: w[1:], found.params))
  with pytest.raises(UsageError, match=r'three\.npz is a plan for seed3, which this model'):
    one(net, fresh((0, 1))[1])


EIGHT = dict(bits=8, group='channel', symmetric=True, examples=256, scaling='smooth')


@pytest.mark.parametrize('activations', ['token', 'tensor'])
def test_inputs_and_weights_of_8_bits(fresh, tmp_path, activations):
  net, run = fresh((0, 1), workdir=tmp_path)
  small = stages.quantize(**EIGHT, activations=activations)
  packed = chain(train=TRAIN, quantize=small)(net, run)
  x, before = run.data.test.x, run.nets['train']
  exact, found = (logits(n, x) for n in (before, packed))
  assert ((found.argmax(-1) == exact.argmax(-1)).mean(1) > 0.98).all()
  assert 0 < ((found - exact) ** 2).sum() / (exact**2).sum() < 1e-3
  again = saved.read(tmp_path / 'nets' / 'quantize', models)
  assert again.module.activations == activations and np.array_equal(logits(again, x), found)
  rows = [r for r in run.rows if r['kind'] == 'quantized']
  assert [r['exponent'] for r in rows] == [None, [0.5, 0.5]]  # nothing makes the first input
  assert all(1e-6 < e < 1e-3 for r in rows for e in r['error'])
  row, dense = cost(packed, x[:1]), cost(before, x[:1])
  steps = 2 if activations == 'tensor' else 0
  assert row['params'] == dense['params'] + steps and row['macs'] == dense['macs']
  weights, scales, rest = 64 * 24 + 24 * 12, 2 * (24 + 12), 4 * (24 + 12 + 12 * 10 + 10)
  assert 0 <= weights + scales + rest + 4 * steps - row['bytes'][0] < 4 * 46  # biases of 0
  assert row['energy_uj'][0] < 0.4 * dense['energy_uj'][0]
  assert row['peak_sram'] < 3 * dense['peak_sram']  # no kernel opened


@pytest.mark.parametrize(
  'bad, message',
  [
    (dict(bits=5), 'bits=5 must be one of'),
    (dict(scaling='awk'), "scales='awk' is unknown. Did you mean 'awq'"),
    (dict(rounding='gpt'), "rounding='gpt' is unknown. Did you mean 'gptq'"),
    (dict(activations='tokens'), "activations='tokens' is unknown. Did you mean 'token'"),
    (dict(activations='token'), "activations='token' needs bits=8, symmetric=True and group="),
    (dict(scaling='smooth', strength=2.0), r'strength=2.0 must lie in \[0, 1\]'),
    (dict(examples=8), 'batch=64 must lie between 1 and examples=8'),
    (dict(skip=('.',)), 'MLP has no linear to quantize'),
  ],
)
def test_what_cannot_be_is_one_line(fresh, bad, message):
  net, run = fresh((0,))
  with pytest.raises(UsageError, match=message):
    stages.quantize(**(FOUR | bad))(net, run)
