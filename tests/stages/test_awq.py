"""A language model's blocks, packed one after another."""

import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import closeness, language, mesh, opened, stages, tree
from reduction.data import passages
from reduction.errors import DataError, MissingInput, UsageError
from reduction.models.served import Served
from reduction.net import Net
from reduction.predict import logits
from reduction.progress import Progress
from reduction.qtensor import Scheme, dequantize, is_packed
from reduction.quantize import module, quantize
from reduction.quantize import plan as plans
from reduction.quantize.calibrate import nbytes
from reduction.quantize.seen import block_inputs, gather
from reduction.run import Run
from tests.faults import bounded

AWQ = dict(bits=4, group=16)
GPTQ = dict(AWQ, rounding='gptq', follows='packed')
ALL = dict(GPTQ, scaling='learned', sequential=True)
PLAN = 'files/plan/plan.npz'


@pytest.fixture(scope='module')
def model(decoder):
  return opened.language_model('tiny', decoder)


@pytest.fixture(scope='module')
def data(decoder, model):
  return texts(decoder, model)


def texts(root, model, **change):
  how = dict(calibration='text.txt', test='text.txt', examples=12, length=16, test_passages=6)
  vocabulary = model.net.module.vocabulary
  return passages(**how | change, encode=model.encode, vocabulary=vocabulary, data_dir=root)


def test_losses_block_by_block_are_those_of_the_whole(model, data):
  x = data.test.x
  whole = jax.nn.log_softmax(logits(model.net, x)[0][:, :-1])
  expected = -np.take_along_axis(np.asarray(whole), x[:, 1:, None], -1)[..., 0]
  assert np.allclose(language.token_losses(model.net, x), expected, atol=1e-5)
  found = language.perplexity(model.net, x, Run(data), batch=4)['perplexity'][0]
  assert np.isclose(found, np.exp(expected.mean()), rtol=1e-5)


def as_floats(net):
  opened = jax.tree.map(
    lambda w: dequantize(w) if is_packed(w) else w, net.params, is_leaf=is_packed
  )
  return Net(net.module.module, opened)


@pytest.mark.parametrize('how', [AWQ, GPTQ], ids=['awq', 'both'])
def test_packed_blocks_are_served(model, data, how):
  run = Run(data)
  packed = stages.awq(**how)(model.net, run)
  assert isinstance(packed.module, Served)
  kernels = [n for n, w in tree.named(packed.params, is_packed) if is_packed(w)]
  assert len(kernels) == 2 * 7 and all('layer' in name for name in kernels)
  losses = [language.token_losses(net, data.test.x) for net in (packed, as_floats(packed))]
  assert np.allclose(*losses, atol=1e-4)
  rows = [row for row in run.rows if row['kind'] == 'quantized']
  assert len(rows) == 14 and all(0 < row['error'][0] < 0.05 for row in rows)
  scaled = {row['linear'].split('/')[-1] for row in rows if row['exponent'] is not None}
  assert scaled == {'query', 'key', 'value', 'output', 'gate', 'up', 'down'}


EIGHT = dict(bits=8, group='channel', symmetric=True, clip=False)


@pytest.mark.parametrize('activations', ['token', 'tensor'])
@pytest.mark.parametrize('scaling', ['none', 'smooth'])
def test_inputs_of_8_bits_are_served_as_they_were_measured(model, data, scaling, activations):
  run = Run(data)
  how = dict(EIGHT, scaling=scaling, activations=activations)
  packed = stages.awq(**how)(model.net, run)
  assert packed.module == Served(model.net.module, activations)
  found, exact = (language.token_losses(net, data.test.x) for net in (packed, model.net))
  weights = language.token_losses(as_floats(packed), data.test.x)
  spread = exact.std()
  assert abs(found - exact).mean() < 0.03 * spread
  assert abs(found - weights).max() > 1e-3 * spread  # inputs are rounded too, when it is served
  rows = [row for row in run.rows if row['kind'] == 'quantized']
  assert {row['exponent'] and row['exponent'][0] for row in rows} == {
    None if scaling == 'none' else 0.5
  }
  assert all(1e-6 < row['error'][0] < 1e-2 for row in rows)
  steps = [n for n, _ in tree.named(packed.params) if n.endswith('input_step')]
  assert len(steps) == (14 if activations == 'tensor' else 0)


def test_a_stop_at_a_block_changes_no_bit(model, data, tmp_path, same, monkeypatch):
  whole = stages.awq(**ALL)(model.net, Run(data, workdir=tmp_path / 'whole', save_every=0))
  took = language.block

  def dies(net, name):
    if name == 'layer1':
      raise RuntimeError('crash')
    return took(net, name)

  monkeypatch.setattr(language, 'block', dies)
  crashed = Run(data, workdir=tmp_path / 'crashed', save_every=0)
  with pytest.raises(RuntimeError):
    stages.awq(**ALL)(model.net, crashed)
  monkeypatch.undo()
  again = Run(data, workdir=tmp_path / 'crashed', save_every=0)
  resumed = stages.awq(**ALL)(model.net, again)
  assert same(resumed.params['layer0'], whole.params['layer0'])
  assert same(resumed.params['layer1'], whole.params['layer1'])
  one, other = (plans.read(tmp_path / run / PLAN) for run in ('whole', 'crashed'))
  assert tree.digests(one) == tree.digests(other)


def test_passages_are_shared_by_the_devices_of_a_mesh(model, data):
  """Sums over four devices instead of one: the same exponents, and errors but for a close call."""
  alone, spread = Run(data), Run(data, mesh=mesh.make(4))
  for run in alone, spread:
    stages.awq(**AWQ, batch=4, tokens=64)(model.net, run)
  pairs = [[r for r in run.rows if r['kind'] == 'quantized'] for run in (alone, spread)]
  assert len(pairs[0]) == 14
  for one, other in zip(*pairs, strict=True):
    assert one['exponent'] == other['exponent']
    assert one['error'] == pytest.approx(other['error'], rel=0.1)


def test_a_checkpoint_holds_as_many_bits_a_weight_as_were_asked_for(tmp_path):
  """What a run with one more layer keeps more: half a byte and three eighths of one a weight."""
  kept = {}
  for bits, layers in itertools.product((3, 4), (1, 2)):
    root = tmp_path / f'{bits}-{layers}'
    bounded.write(root, num_hidden_layers=layers, hidden_size=384, intermediate_size=1536)
    large = opened.language_model('model', root)
    run = Run(texts(root, large), workdir=root / 'run')
    stages.awq(bits=bits, group='channel', scaling='none', clip=False)(large.net, run)
    files = (root / 'run' / 'checkpoints').rglob('*')
    kept[bits, layers] = sum(file.stat().st_size for file in files if file.is_file())
    linears = [
      w for n, w in tree.named(large.net.params) if n.startswith('layer0/') and n.endswith('kernel')
    ]
    weights = sum(w.size for w in linears)
  for bits in 3, 4:
    share = (kept[bits, 2] - kept[bits, 1]) / (weights * bits / 8)
    assert 0.8 < share < 1.05  # scales and norms are in it; files are compressed


@pytest.mark.parametrize('how', [AWQ, GPTQ], ids=['awq', 'both'])
def test_a_plan_is_applied_without_a_search(model, data, tmp_path, same, monkeypatch, how):
  found = stages.awq(**how)(model.net, Run(data, workdir=tmp_path / 'found'))
  monkeypatch.setattr(plans, 'search', None)
  run = Run(data, workdir=tmp_path / 'applied')
  applied = stages.awq(**how, plan=str(tmp_path / 'found' / PLAN))(model.net, run)
  assert same(applied.params, found.params)  # every packed bit, and the norms
  rows = [row for row in run.rows if row['kind'] == 'quantized']
  assert {row['exponent'] is None for row in rows} == {False}
  assert all((row['error'][0] is None) == (how is AWQ) for row in rows)  # nothing was looked at
  again = plans.read(tmp_path / 'applied' / PLAN)
  assert tree.digests(again) == tree.digests(plans.read(tmp_path / 'found' / PLAN))
  three = stages.awq(bits=3, group=8, plan=str(tmp_path / 'found' / PLAN))(model.net, Run(data))
  for name, w in tree.named(three.params['layer1'], is_packed):
    kept = dict(tree.named(found.params['layer1'], is_packed))[name]
    assert is_packed(w) == is_packed(kept)
    if is_packed(w):
      assert (w.scheme.bits, w.scheme.group) == (3, 8)
    else:
      assert same(w, kept)  # norms are folded alike


def test_blocks_of_the_gram_matrices_are_better_than_nothing(model, data):
  """Of 16 channels each, as groups are, in less memory than whole ones, which is said before."""
  told = io.StringIO()
  settings = dict(bits=4, group=16, tokens=0, batch=2)
  measure = closeness.texts(model.net, data.test.x, Run(data).child('measure'), 2)
  found = {}
  ways = dict(whole={}, blocks=dict(gram=16), rounded=dict(scaling='none', clip=False))
  for name, how in ways.items():
    run = Run(data, progress=Progress(stream=told))
    net = stages.awq(**settings | how)(model.net, run)
    found[name] = float(measure(net, Run(data).child(name))['divergence'].mean())
  assert found['whole'] < found['blocks'] < 0.9 * found['rounded']
  method = stages.awq(**settings, gram=16).method
  inputs = block_inputs(model.net)
  assert nbytes(inputs, method.gram) < 0.7 * nbytes(inputs)
  assert stages.awq(**settings, gram=16).needs.gram == 16
  run = Run(data, progress=Progress(stream=told))
  gather(model.net, data.train.x, run, stages.awq(**settings, gram=16).needs)
  assert f'inputs at a time: {nbytes(inputs, 16) / 1e6:,.1f} MB' in told.getvalue()
  with pytest.raises(UsageError, match=r"gram=16 keeps blocks of .*, rounding='gptq' needs"):
    stages.awq(**settings, gram=16, rounding='gptq')
  with pytest.raises(UsageError, match='gram=-1 must not be negative'):
    stages.awq(**settings, gram=-1)


def test_rounding_alone_looks_at_no_text(model, data, same, monkeypatch):
  monkeypatch.setattr(module, 'calibrate', None)
  run = Run(data)
  packed = stages.awq(**AWQ, scaling='none', clip=False)(model.net, run)
  w = language.block(model.net, 'layer1')['mlp']['down']['kernel']
  expected = quantize(w, Scheme(4, 16), dtype=jnp.float16)
  found = tree.map(lambda part: part[0], packed.params['layer1']['mlp']['down']['kernel'])
  assert same(found, expected)
  assert {row['error'][0] for row in run.rows if row['kind'] == 'quantized'} == {None}


def test_a_plan_of_another_model_is_refused_before_any_block(model, data, tmp_path):
  plans.write(tmp_path / 'plan.npz', dict(layer2=dict(mlp=dict(down=dict(exponent=np.ones(()))))))
  with pytest.raises(UsageError, match=r'plan.npz is a plan for layer2, which this model does not'):
    stages.awq(**AWQ, plan=str(tmp_path / 'plan.npz'))(model.net, Run(data))


@pytest.mark.parametrize(
  'change, error, message',
  [
    (dict(test='nowhere.txt'), MissingInput, "no text 'nowhere.txt'"),
    (dict(examples=10_000), DataError, r'text.txt has 125 passages of 16 tokens, examples=10000'),
    (dict(length=4_000), DataError, 'text.txt has 2000 tokens, but a passage is 4000'),
    (dict(length=1), UsageError, 'length=1 is too few'),
    (dict(calibration='empty.txt'), DataError, r'empty.txt has 0 tokens, but a passage is 16'),
  ],
)
def test_texts_that_cannot_do_are_named(decoder, model, change, error, message):
  (decoder / 'empty.txt').write_text('')
  with pytest.raises(error, match=message):
    texts(decoder, model, **change)


def test_a_tokenizer_of_another_model_is_found_out(decoder, model):
  with pytest.raises(DataError, match=r'text.txt has token \d+, the model knows 0 to 9'):
    passages(calibration='text.txt', test='text.txt', examples=2, length=16, encode=model.encode,
             vocabulary=10, data_dir=decoder)  # fmt: skip


def test_a_model_that_is_not_there_says_what_one_is(tmp_path):
  with pytest.raises(MissingInput, match=r'name a folder with config.json, a .gguf file or a'):
    opened.language_model('nothing', tmp_path)
