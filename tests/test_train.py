"""The loop: data order, masks, replicates, one program for everything, and NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reduction import prune, tree
from reduction import train as t
from reduction import update as u
from reduction.errors import DataError, UsageError
from reduction.net import Net, apply, create, over_replicas


def task(net, run, tx, **settings):
  """Trains net for 200 steps on the digits; (last state, best)."""
  splits = jax.device_put(run.data.splits())
  masks = prune.all_kept(net.params) if net.masks is None else net.masks
  settings = dict(steps=200, batch=60, every=50) | settings
  return t.train(
    u.sgd(u.classification(net.module), tx), u.classified(net.module),
    u.start(net.params, net.stats, masks, tx), splits['train'],
    {name: splits[name] for name in ('validation', 'test')}, run, **settings,
  )  # fmt: skip


ADAM = u.optimizer('adam', learning_rate=1e-3)


def half(net):
  """net with the smaller half of every kernel pruned."""
  rates = prune.by_name(net.params, (('kernel', 0.5),))
  cut = lambda params: prune.smallest(prune.magnitude(params), prune.all_kept(params), rates)
  masks = [cut(jax.tree.map(lambda w, i=i: w[i], net.params)) for i in range(2)]
  return net.replace(masks=tree.map(lambda *m: jnp.stack(m), *masks))


def test_order_shuffles_each_epoch_and_depends_on_the_step_alone():
  key = jax.random.key(1)
  whole = t.order(key, 103, 10, 0, 35)
  assert whole.shape == (35, 10)
  for epoch in range(3):
    seen = whole[10 * epoch : 10 * epoch + 10].ravel()
    assert len(set(seen)) == 100 and set(seen) <= set(range(103))
  assert not np.array_equal(whole[:10], whole[10:20])
  assert np.array_equal(t.order(key, 103, 10, 7, 20), whole[7:27])
  assert not np.array_equal(t.order(jax.random.key(2), 103, 10, 0, 35), whole)


def test_three_replicates_are_three_single_runs(fresh, same):
  state, best = task(*fresh((0, 1, 2)), ADAM)
  for i in range(3):
    alone, alone_best = task(*fresh((i,)), ADAM)
    pick = lambda x, i=i: jax.tree.map(lambda a: a[i : i + 1], x)
    assert same(pick(state), alone) and same(pick(best), alone_best)


def test_vmapped_replicates_agree_with_one_after_another(fresh):
  net, run = fresh((0, 1))
  score = u.classified(net.module)
  test = jax.device_put(run.data.test)
  loop, vmap = [
    over_replicas(score, (0, 0, None), how=how)(net.params, net.stats, test)
    for how in ('loop', 'vmap')
  ]
  np.testing.assert_allclose(loop['loss'], vmap['loss'], rtol=1e-5)
  np.testing.assert_array_equal(loop['accuracy'], vmap['accuracy'])


def forms(masks):
  """The three ways to mask: in the forward pass, the gradient, or the weights after each step."""
  keep = lambda x: tree.keep(x, masks)
  same = lambda x: x
  return dict(forward=(keep, same, same), gradient=(same, keep, same), project=(same, same, keep))


@pytest.mark.parametrize(
  'tx, exact',
  [
    (optax.adam(1e-3), ('forward', 'gradient', 'project')),
    (optax.sgd(0.1, momentum=0.9), ('forward', 'gradient', 'project')),
    (optax.adamw(1e-3, weight_decay=0.1), ('forward', 'gradient', 'project')),
    # dead gradients enter the norm of whoever only projects
    (optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)), ('forward', 'gradient')),
  ],
)
def test_masking_the_gradient_is_masking_the_forward_pass(fresh, tx, exact):
  net, run = fresh()
  net = half(net)
  one = jax.tree.map(lambda x: x[0], (net.params, net.masks))
  loss, data = u.classification(net.module), run.data.train
  start = u.start(*jax.tree.map(lambda x: x[None], (one[0], {}, one[1])), tx)
  ours, update = jax.tree.map(lambda x: x[0], start), jax.jit(u.sgd(loss, tx))
  batches = [(data.x[i : i + 60], data.y[i : i + 60]) for i in range(0, 1200, 60)]
  for batch in batches:
    ours, _ = update(ours, batch, jax.random.key(0))
  dead = jax.tree.map(lambda w, m: jnp.where(m, 0, w), ours['params'], one[1])
  assert all((x == 0).all() for x in tree.leaves(dead))
  for name, (before, between, after) in forms(one[1]).items():
    params = tree.keep(*one)
    opt = tx.init(params)

    @jax.jit
    def step(params, opt, batch, before=before, between=between, after=after):
      grads = jax.grad(lambda p: loss(before(p), {}, batch, jax.random.key(0))[0])(params)
      updates, opt = tx.update(between(grads), opt, params)
      return after(optax.apply_updates(params, updates)), opt

    for batch in batches:
      params, opt = step(params, opt, batch)
    gap = max(
      float(jnp.abs(a - b).max())
      for a, b in zip(tree.leaves(tree.keep(params, one[1])), tree.leaves(ours['params']))
    )
    assert gap < 1e-6 if name in exact else gap > 1e-3, (name, gap)


def test_one_program_for_masks_controls_rewinds_and_rates(fresh):
  traced = []

  def counted(module):
    loss = u.classification(module)

    def count(*args):
      traced.append(1)
      return loss(*args)

    return count

  net, run = fresh()
  tx = u.optimizer('sgd', learning_rate=0.1)
  assert tx is u.optimizer('sgd', learning_rate=0.1)  # a second config builds the same object
  update, splits = u.sgd(counted(net.module), tx), jax.device_put(run.data.splits())
  state = u.start(net.params, {}, prune.all_kept(net.params), tx)
  go = lambda name, state, **more: t.train(
    update, u.classified(net.module), state, splits['train'],
    {'validation': splits['validation']}, run, steps=300, batch=60, every=50, name=name, **more,
  )[0]  # fmt: skip
  dense = go('dense', state)
  tracings = len(traced)
  go('pruned', u.start(net.params, {}, half(net).masks, tx))
  redrawn = create(net.module, run.key('init', 1), splits['train'][0][:1])
  go('reinit', u.start(redrawn.params, {}, half(net).masks, tx))
  hyper = {'learning_rate': jnp.full(2, 0.01)}
  opt = dense['opt']._replace(hyperparams=hyper)
  go('slower', {**dense, 'opt': opt})
  assert len(traced) == tracings
  # rewinding: from the state at step 100 on, the same bits as without a stop
  early = t.train(
    update, u.classified(net.module), state, splits['train'],
    {'validation': splits['validation']}, run, steps=100, batch=60, every=50, name='early',
  )[0]  # fmt: skip
  late = go('late', early, first=100)
  np.testing.assert_array_equal(late['params']['fc1']['kernel'], dense['params']['fc1']['kernel'])


def test_best_is_the_lowest_validation_loss_and_its_weights(fresh):
  net, run = fresh((3,))
  _, best = task(net, run, u.optimizer('adam', learning_rate=2e-2), steps=600)
  curve = [row for row in run.rows if row['kind'] == 'curve']
  lowest = min(curve, key=lambda row: row['validation_loss'][0])
  assert lowest['step'] < 600  # such a rate overfits, or this shows nothing
  assert int(best.step[0]) == lowest['step']
  validation = jax.device_put(run.data.validation)
  again = over_replicas(u.classified(net.module), (0, 0, None))(best.params, best.stats, validation)
  np.testing.assert_allclose(again['loss'][0], lowest['validation_loss'][0], rtol=1e-5)


def test_test_accuracy_is_followed_only_where_asked(fresh):
  net, run = fresh((0,))
  task(net, run, ADAM, name='without')
  assert all('test_accuracy' not in row for row in run.rows)
  _, best = task(net, run, ADAM, name='with', watching=True)
  last = run.rows[-1]
  logits = Net(net.module, *jax.tree.map(lambda x: x[0], (best.params, best.stats)))
  test = run.data.test
  assert int(best.step[0]) == last['step']
  np.testing.assert_allclose(
    last['test_accuracy'][0], (np.asarray(logits(test.x)).argmax(-1) == test.y).mean(), rtol=1e-5
  )


def poisoned(module, where):
  """A loss that is NaN for batches with the example `where`."""
  loss = u.classification(module)

  def nan(params, stats, batch, key):
    value, aux = loss(params, stats, batch, key)
    return jnp.where((batch[1] == where).any(), jnp.nan, 1.0) * value, aux

  return nan


@pytest.mark.parametrize('label, most, stops', [(77, 0, False), (3, 500, False), (3, 10, True)])
def test_steps_without_a_finite_loss_are_skipped_then_stop_the_run(fresh, label, most, stops):
  net, run = fresh((0, 1))
  splits = jax.device_put(run.data.splits())
  state = u.start(net.params, {}, prune.all_kept(net.params), ADAM)
  go = lambda: t.train(
    u.sgd(poisoned(net.module, label), ADAM), u.classified(net.module), state, splits['train'],
    {'validation': splits['validation']}, run, steps=100, batch=60, every=50, most_skipped=most,
  )[0]  # fmt: skip
  if stops:
    with pytest.raises(DataError, match=r'no finite loss .* step 100 \(seeds \[0, 1\]; last'):
      go()
    return
  state = go()
  assert all(np.isfinite(np.asarray(w)).all() for w in tree.leaves(state['params']))
  assert (np.asarray(state['skipped']) == (100 if label == 3 else 0)).all()


def test_a_schedule_warms_up_drops_and_goes_on_where_a_state_says():
  tx = u.optimizer('sgd', learning_rate=0.5, warmup=4, drops=(6, 8))
  params = dict(w=jnp.zeros((1, 2, 2)))
  sizes = []
  for step in range(10):
    updates, _ = tx.update(dict(w=jnp.ones((2, 2))), tx.init(dict(w=params['w'][0])), step=step)
    sizes.append(float(-updates['w'][0, 0]))
  np.testing.assert_allclose(
    sizes, [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.05, 0.05, 0.005, 0.005], rtol=1e-5
  )
  state = u.start(params, {}, None, tx, first=7)
  update = u.sgd(lambda p, stats, batch, key: (p['w'].sum(), (stats, {})), tx)
  state = jax.tree.map(lambda x: x[0], state)
  after, _ = update(state, None, jax.random.key(0))
  assert float(after['params']['w'][0, 0]) == pytest.approx(-0.05) and int(after['step']) == 8


def test_l2_pulls_matrices_and_leaves_vectors():
  tx = u.optimizer('sgd', learning_rate=1.0, l2=0.1)
  params = dict(kernel=jnp.full((2, 2), 3.0), bias=jnp.full(2, 3.0))
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  np.testing.assert_allclose(updates['kernel'], -0.3, rtol=1e-6)
  assert not updates['bias'].any()


def test_a_cosine_falls_to_nothing():
  tx = u.optimizer('sgd', learning_rate=0.5, cosine=8, warmup=2)
  sizes = [
    float(-tx.update(dict(w=jnp.ones(2)), tx.init(dict(w=jnp.ones(2))), step=s)[0]['w'][0])
    for s in (0, 1, 4, 8, 20)
  ]
  expected = [0.25 * (1 + np.cos(0)) / 2, 0.5 * (1 + np.cos(np.pi / 8)) / 2, 0.25, 0, 0]
  np.testing.assert_allclose(sizes, expected, atol=1e-6)


def test_no_unit_gets_longer_weights_than_max_norm():
  tx = u.optimizer('sgd', learning_rate=1.0, max_norm=2.0)
  w = jnp.array([[0.6, 3.0], [0.8, 4.0]])  # columns of lengths 1 and 5
  params = {name: dict(kernel=w, bias=jnp.full(2, 9.0)) for name in ('fc1', 'out')}
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  new = jax.tree.map(jnp.add, params, updates)
  np.testing.assert_allclose(new['fc1']['kernel'], [[0.6, 1.2], [0.8, 1.6]], rtol=1e-6)
  np.testing.assert_allclose(new['out']['kernel'], w)
  np.testing.assert_allclose(new['fc1']['bias'], 9.0)


def test_a_batch_holds_what_is_given_by_example_and_whole(fresh):
  net, run = fresh((0, 1))
  splits = jax.device_put(run.data.splits())
  count = len(splits['train'].y)
  numbers = jnp.arange(count) + 1000 * jnp.arange(2)[:, None]
  labels = splits['train'].y + 1000 * jnp.arange(2)[:, None]

  def loss(params, stats, batch, key):
    x, y, given = batch
    value, aux = u.classification(net.module)(params, stats, (x, y), key)
    right = (given['label'] == y + given['offset']).all()
    told = dict(right=right * 1.0, at_step=1.0 * given['step'], number=1.0 * given['number'].min())
    return value, (aux[0], told)

  state = u.start(net.params, {}, prune.all_kept(net.params), ADAM)
  given = dict(label=labels, number=numbers), dict(offset=jnp.array([0, 1000]))
  t.train(
    u.sgd(loss, ADAM), u.classified(net.module), state, splits['train'], {}, run,
    given=given, steps=4, batch=60, every=2,
  )  # fmt: skip
  curve = [row for row in run.rows if row['kind'] == 'curve']
  assert [row['step'] for row in curve] == [2, 4]
  for row, step in zip(curve, (0.5, 2.5)):  # the mean of the steps 0, 1 and 2, 3
    assert row['right'] == [1, 1] and row['at_step'] == [step, step]
    assert row['number'][1] >= 1000 > row['number'][0]


def test_without_validation_the_last_is_the_best(fresh, same):
  net, run = fresh((0,))
  splits = jax.device_put(run.data.splits())
  state = u.start(net.params, {}, prune.all_kept(net.params), ADAM)
  last, best = t.train(
    u.sgd(u.classification(net.module), ADAM), u.classified(net.module), state, splits['train'],
    {}, run, steps=100, batch=60, every=50,
  )  # fmt: skip
  assert same(best.params, last['params']) and best.step.tolist() == [100]
  assert run.rows[-1]['loss'] and 'validation_loss' not in run.rows[-1]


def test_the_cpu_s_compile_options_change_no_bit(fresh, monkeypatch, same):
  from reduction import net as n

  found = []
  for options in (n._options(), None):
    n._jitted.cache_clear()
    monkeypatch.setattr(n, '_options', lambda options=options: options)
    found.append(task(*fresh((0,)), ADAM))
  n._jitted.cache_clear()
  assert same(*found)


@pytest.mark.parametrize(
  'settings, says',
  [
    (dict(name='adm', learning_rate=1e-3), "Did you mean 'adam'"),
    (dict(name='adam', learning_rate=-1.0), 'must be above 0'),
    (dict(name='adam', learning_rate=float('nan')), 'must be finite'),
    (dict(name='adam', learning_rate=1e-3, beta1=0.9), "no setting 'beta1'. Known: b1, b2"),
    (dict(name='sgd'), 'learning_rate=None must be above 0'),
    (dict(name='sgd', learning_rate=0.1, drops=(5, 5)), 'must rise'),
    (dict(name='sgd', learning_rate=0.1, warmup=-1), 'must not be negative'),
  ],
)
def test_a_wrong_optimizer_is_one_line(settings, says):
  with pytest.raises(UsageError, match=says):
    u.optimizer(**settings)


def test_net_refuses_masks_that_do_not_fit(fresh):
  net, _ = fresh()
  with pytest.raises(UsageError, match=r'mask fc1/bias has shape \(3,\)'):
    net.replace(masks=jax.tree.map(lambda w: jnp.ones(3, bool), net.params))


def test_net_applies_its_masks(fresh):
  net = half(fresh((0, 1))[0])
  one = jax.tree.map(lambda x: x[0], net)
  x = np.ones((2, 8, 8, 1), np.float32)
  np.testing.assert_array_equal(one(x), apply(one.module, tree.keep(one.params, one.masks), {}, x))
  assert float(jnp.abs(one(x) - one.replace(masks=None)(x)).max()) > 0
