"""Training in few bits: what rounding loses comes back, and what was trained is what is served."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import closeness, losses, models, prune, saved, stages, tree
from reduction.cost import cost
from reduction.errors import UsageError
from reduction.models.served import Served
from reduction.predict import logits
from reduction.qtensor import Scheme, dequantize, is_packed
from reduction.quantize.qat import Plan, finished, prepared
from reduction.run import Run, chain

ADAM = dict(name='adam', learning_rate=2e-3)
TRAIN = stages.tune(steps=300, batch=60, every=150, optimizer=ADAM)
TWO = dict(bits=2, group='channel', symmetric=True)
SHORT = dict(steps=300, batch=60, every=150, optimizer=ADAM)


def accuracy(net, run):
  return (logits(net, run.data.test.x).argmax(-1) == run.data.test.y).mean(1)


@pytest.mark.parametrize('learned', [False, True], ids=['straight through', 'learned steps'])
def test_training_gets_back_what_rounding_loses(fresh, learned):
  net, run = fresh((0, 1))
  net = chain(train=TRAIN)(net, run)
  nearest = finished(prepared(net, Plan(Scheme(**TWO), ('fc1', 'fc2'))))
  small = stages.qat(**TWO, **SHORT, learned=learned)(net, run.child('qat'))
  exact, lost, back = (accuracy(n, run) for n in (net, nearest, small))
  assert (lost < exact - 0.15).all() and (exact - back < 0.2 * (exact - lost)).all()
  assert isinstance(small.module, Served) and 'fc1/kernel_step' not in tree.names(small.params)
  # the net that is served is the one that was judged in training
  curve = [row for row in run.rows if row['kind'] == 'curve'][-1]
  split = run.data.validation
  values = [losses.cross_entropy(jnp.asarray(one), split.y) for one in logits(small, split.x)]
  assert np.allclose(values, curve['validation_loss'], rtol=1e-5)
  row = run.rows[-1]
  assert row['kind'] == 'qat' and np.allclose(row['test_accuracy'], back)
  rows = [row for row in run.rows if row['kind'] == 'quantized' and 'changed' in row]
  assert [(row['linear'], row['rows']) for row in rows] == [('fc1', 64), ('fc2', 24)]
  assert all(0.02 < share < 0.7 for row in rows for share in row['changed'])


def test_pruned_weights_are_codes_of_0_and_the_net_is_saved_as_it_is(fresh, tmp_path):
  net, run = fresh((0, 1), workdir=tmp_path)
  cut = lambda w: prune.smallest(prune.magnitude(w), prune.all_kept(w), 0.5)
  net = net.replace(masks=jax.jit(jax.vmap(cut))(net.params))
  brief = dict(steps=100, batch=60, every=50, optimizer=dict(ADAM, l2=1e-4, max_norm=3.0))
  small = stages.qat(**(TWO | brief | dict(bits=4)), learned=True, best=True)
  packed = chain(qat=small)(net, run)
  masks = dict(tree.named(net.masks))
  for name, w in tree.named(packed.params, is_packed):
    w = dequantize(w) if is_packed(w) else w
    assert not np.asarray(w)[~np.asarray(masks[name])].any(), name
  again = saved.read(tmp_path / 'nets' / 'qat', models)
  assert np.array_equal(logits(again, run.data.test.x), logits(packed, run.data.test.x))
  row = cost(packed, run.data.test.x[:1])
  codes, scales = (64 * 24 + 24 * 12) // 2, 2 * (24 + 12)
  assert 0 <= row['bytes'][0] - codes - scales <= 4 * (24 + 12 + 12 * 10 + 10)


class Stopped(RuntimeError):
  pass


class Stop:
  """A sink that breaks off with the row of step 120."""

  def write(self, row):
    if row['kind'] == 'curve' and row['step'] == 120:
      raise Stopped


def test_learned_steps_go_on_after_a_stop(fresh, same, tmp_path):
  stage = stages.qat(**TWO, **SHORT | dict(steps=200, every=10), learned=True)
  net, run = fresh((0,))
  whole = stage(net, run)
  settings = dict(workdir=tmp_path, save_every=0.0)
  with pytest.raises(Stopped):
    stage(net, fresh((0,), **settings, sinks=Stop())[1])
  assert same(stage(net, fresh((0,), **settings)[1]), whole)


@pytest.mark.parametrize(
  'bad, message',
  [
    (dict(bits=5), 'bits=5 must be one of'),
    (dict(learned=True, symmetric=False), 'learned=True steps have no zero points'),
    (dict(targets='label'), "targets='label' is unknown. Did you mean 'labels'?"),
    (dict(stored='float8'), "stored='float8' is no float"),
    (dict(skip=('.',)), 'MLP has no linear to quantize'),
    (dict(every=7), 'every=7 must divide the 300 steps'),
  ],
)
def test_what_cannot_be_is_one_line(fresh, bad, message):
  net, run = fresh((0,))
  with pytest.raises(UsageError, match=message):
    stages.qat(**(TWO | SHORT | bad))(net, run)


def test_a_packed_net_is_trained_no_further(fresh):
  net, run = fresh((0,))
  small = finished(prepared(net, Plan(Scheme(**TWO), ('fc1',))))
  with pytest.raises(UsageError, match='the net is quantized already'):
    stages.qat(**TWO, **SHORT)(small, run)


def test_a_language_model_learns_what_it_said_before(tiny):
  """Its own predictions bring it nearer to itself than rounding, labels nearer to the text."""
  model, data = tiny
  run = Run(data, (0,))
  few = dict(bits=2, group=16)
  short = dict(few, steps=60, batch=4, every=30, optimizer=dict(ADAM, learning_rate=3e-3))
  nets = dict(
    rounded=stages.awq(**few, scaling='none', clip=False)(model.net, run.child('rounded')),
    own=stages.qat(**short, targets='own')(model.net, run.child('own')),
    told=stages.qat(**short)(model.net, run.child('told')),
  )
  measure = closeness.texts(model.net, data.train.x, run.child('measure'), 2)
  found = {name: measure(net, run.child(name + '-measured')) for name, net in nets.items()}
  mean = lambda key: {name: float(items[key].mean()) for name, items in found.items()}
  divergence, loss = mean('divergence'), mean('perplexity')
  assert 0 < divergence['own'] < min(0.5 * divergence['rounded'], divergence['told'])
  assert loss['told'] < min(loss['own'], loss['rounded'])
  rows = [row for row in run.rows if row['kind'] == 'qat']
  assert len(rows) == 2 and all('test_accuracy' not in row for row in rows)
  packed = [name for name, leaf in tree.named(nets['own'].params, is_packed) if is_packed(leaf)]
  assert len(packed) == 14 and all(name.startswith('layer') for name in packed)
