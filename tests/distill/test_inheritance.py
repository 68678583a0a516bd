"""Weights that a net starts from: whose, which, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from reduction import data, models, stages, tree
from reduction.distill.inheritance import adopted, inherit
from reduction.errors import MissingInput, UsageError
from reduction.formats import huggingface
from reduction.models import gpt_files
from reduction.models.bert import weights
from reduction.models.decoder_files import name_in_file
from reduction.net import Net, all_kept
from reduction.run import Run
from tests import sentences

SIZES = dict(width=24, heads=3, inner=40, vocabulary=50, positions=64)


def drawn(replicas=2, seed=0, **how) -> Net:
  """A BERT with random weights."""
  module = models.bert(**SIZES, **how)
  shapes = jax.eval_shape(module.init, jax.random.key(0), np.ones((1, 8), np.int32))['params']
  rng = np.random.default_rng(seed)
  draw = lambda s: jnp.asarray(rng.standard_normal((replicas, *s.shape)), s.dtype)
  return Net(module, tree.map(draw, shapes))


def test_layers_come_from_where_they_are_named(same):
  source, net = drawn(layers=3, seed=1), drawn(layers=2)
  got = inherit(net, source, layers=dict(layer1='layer2'))
  assert same(got.params['layer1'], source.params['layer2'])
  assert same(got.params['layer0'], source.params['layer0'])
  assert same(got.params['embeddings'], source.params['embeddings'])
  assert same(got.params['out'], net.params['out']) and got.masks is None
  whole = inherit(net, source, fresh=('layer0', 'embeddings/words'))
  assert same(whole.params['out'], source.params['out'])
  assert same(whole.params['layer0'], net.params['layer0'])
  assert same(whole.params['embeddings']['words'], net.params['embeddings']['words'])
  assert same(whole.params['embeddings']['norm'], source.params['embeddings']['norm'])


def test_one_source_serves_all_replicates_and_masks_come_along():
  source, net = drawn(replicas=1, layers=1, seed=1), drawn(layers=1)
  masks = tree.map(lambda w: jnp.abs(w) > 1, source.params)
  got = inherit(net, source.replace(masks=masks))
  key = lambda t: t['layer0']['inner']['kernel']
  assert np.array_equal(key(got.params), np.repeat(key(source.params), 2, 0))
  assert np.array_equal(key(got.masks), np.repeat(key(masks), 2, 0))
  assert all(m.all() for m in tree.leaves(got.masks['out']))
  assert tree.structure(all_kept(got.params)) == tree.structure(got.masks)


@pytest.mark.parametrize(
  'how, says',
  [
    (dict(layers=dict(layer1='layer9')), "layer1/attention/key/bias finds no 'layer9/att"),
    (dict(layers=dict(layer7='layer0')), "no weight of the net is in 'layer7'"),
    (dict(fresh=('pooler',)), "no weight of the net is in 'pooler'"),
    (dict(layers=dict(out='layer0/inner')), r'out/bias is \[2, 2\] .* is \[2, 40\]'),
  ],
)
def test_what_does_not_fit_is_named(how, says):
  source, net = drawn(layers=3), drawn(layers=2)
  with pytest.raises(UsageError, match=says):
    inherit(net, source, **{'fresh': (), **how})
  with pytest.raises(UsageError, match=r'is \[2, 24\] with its replicates, but .* is \[3'):
    adopted(net.params, dict(tree.named(drawn(replicas=3, layers=2).params)))


@pytest.fixture(scope='module')
def tuned(texts):
  """(net, run) with the folder's weights, never trained."""
  found = data.sst2(data_dir=texts, length=16)
  run = Run(found, (0, 1))
  net = stages.pretrained(path='all-MiniLM-L6-v2', data_dir=texts)(drawn(layers=2), run.child('p'))
  return net, run


def test_a_published_model_is_the_first_net(tuned, texts):
  net, run = tuned
  source = weights(huggingface.tensors(texts / 'all-MiniLM-L6-v2'))
  for path, w in tree.named(net.params):
    if not path.startswith('out/'):
      assert all(np.array_equal(one, source[path]) for one in w), path
  assert run.rows[-1]['kind'] == 'pretrained' and run.rows[-1]['path'] == 'all-MiniLM-L6-v2'


def test_another_size_and_kind_are_refused(tmp_path, texts):
  stage = stages.pretrained(path='all-MiniLM-L6-v2', data_dir=texts)
  module = models.bert(layers=2, **dict(SIZES, inner=48))
  with pytest.raises(UsageError, match=r'model.inner=48, but .* has 40'):
    stage(Net(module, {}), Run(seeds=(0,)))
  with pytest.raises(UsageError, match=r'model.layers=3, but .* has 2'):
    stage(Net(models.bert(layers=3, **SIZES), {}), Run(seeds=(0,)))
  with pytest.raises(UsageError, match=r'model.layers=None'):
    stage(Net(models.lenet(), {}), Run(seeds=(0,)))
  with pytest.raises(MissingInput, match='no model in'):
    stages.pretrained(path='nothing', data_dir=tmp_path)(None, None)
  (sentences.model(tmp_path / 'm') / 'config.json').write_text('{"model_type": "gpt5"}')
  with pytest.raises(UsageError, match="is a model of type 'gpt5', not bert"):
    stages.pretrained(path=str(tmp_path / 'm'))(None, None)


@pytest.mark.parametrize('tied', [True, False])
def test_a_language_model_is_taken_whole(tied, tmp_path):
  config = dict(
    model_type='opt', num_hidden_layers=2, hidden_size=8, num_attention_heads=2, ffn_dim=12,
    vocab_size=9, max_position_embeddings=6, activation_function='relu', tie_word_embeddings=tied,
  )  # fmt: skip
  sizes, rng = gpt_files.settings(config), np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape, np.float32)
  tensors = {'model.decoder.embed_positions.weight': draw(8, 8)}
  for path, shape in gpt_files.shapes(sizes).items():
    name = name_in_file(path, gpt_files.MODULES['opt'])
    tensors.setdefault(name, draw(*(shape[::-1] if path.endswith('kernel') else shape)))
  save_file(tensors, tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps(config))
  module, run = models.gpt(**dict(sizes, layers=1)), Run(seeds=(0, 1))
  blank = jax.eval_shape(module.init, jax.random.key(0), np.ones((1, 3), np.int32))['params']
  net = Net(module, tree.map(lambda w: jnp.zeros((2, *w.shape), w.dtype), blank))
  got = stages.pretrained(path=str(tmp_path), layers=dict(layer0='layer1'))(net, run)
  source = gpt_files.weights(tensors, config)
  for path, w in tree.named(got.params):
    expected = source[path.replace('layer0', 'layer1')]
    assert all(np.array_equal(one, expected) for one in w), path
  assert run.rows[-1]['fresh'] == ''


def test_a_student_starts_from_layers_of_its_teacher(tuned, same):
  net, run = tuned
  run.nets['teacher'] = net
  student = dict(SIZES, name='bert', layers=1, dropout=0.0)
  still = dict(optimizer=dict(name='sgd', learning_rate=1e-9), steps=1, batch=10, every=1)
  stage = stages.distill(
    student=student, inherits=dict(of='teacher', layers=dict(layer0='layer1')),
    teachers=('teacher',), hard=1.0, **still,
  )  # fmt: skip
  got = stage(net, run.child('student'))
  leaf = lambda t: t['inner']['kernel']
  np.testing.assert_allclose(
    leaf(got.params['layer0']), leaf(net.params['layer1']), rtol=0, atol=1e-6
  )
  assert got.module.layers == 1


@pytest.mark.parametrize(
  'inherits, student, says',
  [
    (dict(of='teacher'), None, 'name a student'),
    (dict(layers={}), dict(name='lenet'), 'must say whose weights'),
    (dict(of='teacher', layer={}), dict(name='lenet'), "no 'layer'; it has of, layers and fresh"),
  ],
)
def test_wrong_settings_are_refused(inherits, student, says):
  settings = dict(steps=1, batch=1, every=1, optimizer=dict(name='sgd', learning_rate=0.1))
  with pytest.raises(UsageError, match=says):
    stages.distill(student=student, inherits=inherits, soft=0.0, hard=1.0, **settings)
