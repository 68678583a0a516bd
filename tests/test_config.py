"""Every config loads, every line of every sweep applies, and settings reach functions by name."""

import importlib
import json
import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from launch.run import PARTS, build, run
from reduction import config, data, models, opened, report, saved, stages, tree
from reduction.errors import UsageError

ROOT = pathlib.Path(__file__).parent.parent
SOON = {  # one of each folder, whose quick run is in the README's test command; CI has all
  'awq/salient', 'configs/quickstart', 'distill/mnist', 'dtmm/digits', 'fedkd/digits',
  'lottery/lenet', 'mcu/digits', 'mcunet/words', 'nas/digits',
}  # fmt: skip
FILES = sorted(
  path for path in ROOT.glob('configs/**/*.py')
  if 'def get_config' in path.read_text() and 'c.stages' in path.read_text()
)  # fmt: skip


def module(path):
  """The module of a config file."""
  return importlib.import_module('.'.join(path.relative_to(ROOT).with_suffix('').parts))


def within_reach(given, data_dir):
  """(config, data directory) with data and, where it names a folder, a model that are here."""
  named = dict(model=dict(path='tiny')) if 'path' in given['model'] else {}
  return {**given, **named, 'data': dict(name='digits')}, data_dir


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.stem)
def test_a_config_loads_in_full_and_quick_and_reads_back_the_same(path, decoder):
  for variant in '', 'quick':
    given = config.canonical(module(path).get_config(variant))
    assert config.canonical(json.loads(json.dumps(given))) == given
    assert set(given) <= {*PARTS, *given['stages']}
    job = build(*within_reach(given, decoder))
    assert callable(job.stage) and hash(job.module) == hash(job.module)
  text = module(path).__doc__
  assert 'python -m launch.run --config=' + str(path.relative_to(ROOT)) in text


@pytest.mark.parametrize('path', [p for p in FILES if 'def sweep' in p.read_text()], ids=str)
def test_every_line_of_a_sweep_applies(path, decoder):
  lines = list(module(path).sweep())
  assert lines
  for override in lines:
    c = module(path).get_config(override.pop('variant', ''))
    c.lock()
    c.update_from_flattened_dict(override)
    build(*within_reach(config.canonical(c), decoder))


@pytest.fixture(scope='session')
def color_images(tmp_path_factory):
  """A data directory whose CIFAR-10 is noise: what runs on it is never looked at."""
  folder, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
  arrays = {}
  for part, count in ('train', 90), ('test', 30):
    arrays[f'x_{part}'] = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    arrays[f'y_{part}'] = np.arange(count, dtype=np.uint8) % 10
  (folder / 'cifar10').mkdir()
  np.savez(folder / 'cifar10' / 'cifar10.npz', **arrays)
  return folder


@pytest.fixture(scope='session')
def pictures(tmp_path_factory):
  """A data directory whose Visual Wake Words are noise, forty pictures of each class."""
  from PIL import Image
  root, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
  for name in 'person', 'non_person':
    folder = root / 'vw_coco2014_96' / name
    folder.mkdir(parents=True)
    for i in range(40):
      Image.fromarray(rng.integers(0, 256, (96, 96, 3), np.uint8)).save(folder / f'{i}.jpg')
  return root


def models_of(c):
  """Where a config names a model: its own and those of students."""
  return ['model', *(f'{stage}.student' for stage in c.stages if 'student' in c[stage])]


def small(c, folders) -> tuple[dict, str | None]:
  """(what makes two steps of a quick config small, the data directory it is for)"""
  changes, name = dict(seeds=(0,)), c.data.name
  trained = [stage for stage in c.stages if 'steps' in c[stage]]
  for stage in trained:
    changes |= {f'{stage}.steps': 2, f'{stage}.every': 1}
  if name in ('cifar10', 'visual_wake_words'):
    changes |= {'data.validation': 30, **{f'{stage}.batch': 10 for stage in trained}}
  elif name == 'spoken_digits':
    changes |= {'model.classes': 4, 'student.student.classes': 4}
  elif name in ('sst2', 'ade'):
    sizes = dict(width=24, heads=3, inner=40, vocabulary=50, positions=64)
    changes |= {f'{model}.{size}': n for model in models_of(c) for size, n in sizes.items()}
    changes['model.layers'] = 2
  elif name == 'films':
    changes |= {f'{model}.vocabulary': 50 for model in models_of(c)}
  elif name == 'passages':
    changes |= {'model.path': 'tiny', 'data.length': 16}
    changes |= {f'data.{text}': 'text.txt' for text in ('calibration', 'test')}
    changes |= {f'{student}.vocabulary': 50 for student in models_of(c)[1:]}
    if 'awq' in c:
      changes['awq.group'] = 16  # which divides its 32 and 48 units
  elif name not in ('digits', 'spoken_words'):
    changes['data.name'] = 'digits'
    changes |= {'data.validation': 200} if c.data.validation else {}
  return changes, folders.get(name)


@pytest.fixture(scope='session')
def folders(color_images, pictures, spoken, texts, decoder):
  """A data directory of each name."""
  read = dict.fromkeys(('sst2', 'ade', 'films'), texts)
  recordings = dict.fromkeys(('spoken_digits', 'spoken_words'), spoken)
  return dict(
    read, **recordings, cifar10=color_images, visual_wake_words=pictures, passages=decoder
  )


def named(path) -> str:
  """'folder/file' of a config."""
  return '/'.join(path.with_suffix('').parts[-2:])


def soon_or_slow(path):
  """A config as a test's parameter."""
  marks = () if named(path) in SOON else pytest.mark.slow
  return pytest.param(path, marks=marks, id=named(path))


def test_every_folder_has_a_quick_run_in_the_test_command():
  every = [path for path in FILES if named(path) in SOON]
  assert len(every) == len(SOON)
  assert {path.parent for path in every} == {path.parent for path in FILES}


@pytest.mark.parametrize('path', list(map(soon_or_slow, FILES)))
def test_quick_runs_for_two_steps(path, tmp_path, folders):
  """All in this process: what is compiled for one is there for the others of its folder."""
  if path == next(other for other in FILES if other.parent == path.parent):
    jax.clear_caches()  # of the folder before, or they would fill the memory
  c = module(path).get_config('quick')
  c.lock()
  changes, folder = small(c, folders)
  c.update_from_flattened_dict(changes)
  done = run(config.canonical(c), tmp_path, folder)
  assert set(c.stages) <= set(done.nets)
  _, page = report.write(tmp_path)
  assert page == tmp_path / 'report.html' and page.exists()
  if 'folder' in c.stages:
    check_written(tmp_path / 'files' / 'folder' / 'model', done.nets['folder'])


def check_written(folder, net):
  """What other programs will read is the net that was measured, in 16 bits."""
  again = opened.language_model(folder).net
  assert again.module == net.module
  packed = 0
  trees = tree.named(net.params), tree.named(again.params)
  for (name, old), (same, new) in zip(*trees, strict=True):
    old, new = np.asarray(old), np.asarray(new)
    assert name == same and old.shape == new.shape
    packed += old.dtype == np.uint8 and np.array_equal(old, new)
    assert np.allclose(old.astype(np.float32), new.astype(np.float32), rtol=1e-3, atol=1e-6), name
  assert packed == 2 * 7 * 2  # codes and zeros of the seven linears of two blocks


@pytest.mark.slow
def test_students_that_were_distilled_are_federated(tmp_path, folders):
  """configs/fedkd/ade.py:distilled goes on from what configs/distill/bert.py left."""
  bert, ade = (
    module(ROOT / 'configs' / name) for name in ('distill/bert.py', 'fedkd/ade.py')
  )
  c = bert.get_config('quick')
  changes, folder = small(c, folders)
  c.update_from_flattened_dict(changes)
  run(config.canonical(c), tmp_path / 'bert', folder)
  c = ade.get_config('distilled')
  c.stages = ('distilbert',)
  for name in ('pkd', 'tinybert'):
    del c[name]
  changes, folder = small(c, folders)
  c.update_from_flattened_dict(changes | {
    'distilbert.student.layers': 1, 'distilbert.federation.rounds': 1,
    'distilbert.inherits.of': f'{tmp_path / "bert"}:distilbert',
  })  # fmt: skip
  done = run(config.canonical(c), tmp_path / 'ade', folder)
  first, last = (
    dict(tree.named(net.params))
    for net in (saved.read(tmp_path / 'bert/nets/distilbert', models), done.nets['distilbert'])
  )
  same = {name: np.array_equal(last[name], w) for name, w in first.items()}
  assert all(same[name] for name in same if 'embeddings' in name)  # not trained, and inherited
  assert not all(same.values())


def test_canonical_is_plain_sorted_and_refuses_what_json_cannot_hold():
  c = ConfigDict(dict(b=(1, [2.0, 'x']), a=dict(z=None, y=True)))
  assert config.canonical(c) == dict(a=dict(y=True, z=None), b=(1, (2.0, 'x')))
  assert list(config.canonical(c)) == ['a', 'b']
  for bad in float('nan'), float('inf'), {1, 2}, len:
    with pytest.raises(UsageError, match=r'config\.x\.y='):
      config.canonical(dict(x=dict(y=bad)))


@pytest.mark.parametrize(
  'settings, says',
  [
    (dict(name='lent'), r"config.model.name='lent' is not in .*Did you mean 'lenet'"),
    (dict(name='lenet', width=(3,)), r"config.model has no 'width'. Did you mean 'widths'"),
    (dict(name='mlp'), "config.model needs 'widths'"),
    (dict(name='lenet', classes='ten'), "config.model.classes='ten' must be int"),
    (dict(name='lenet', classes=True), 'config.model.classes=True must be int'),
  ],
)
def test_call_names_the_setting(settings, says):
  with pytest.raises(UsageError, match=says):
    config.call(models, settings, 'model')


def test_a_model_from_a_folder_takes_one_seed(decoder):
  c = module(ROOT / 'configs/awq/llm.py').get_config('quick')
  changes, folder = small(c, dict(passages=decoder))
  c.update_from_flattened_dict(changes | dict(seeds=(0, 1)))
  with pytest.raises(UsageError, match=r'tiny is one net: give one seed a run, not \(0, 1\)'):
    build(config.canonical(c), folder)


def test_call_takes_defaults_from_the_function():
  assert config.call(models, dict(name='lenet'), 'model') == models.lenet()
  assert config.call(models, dict(name='mlp', widths=(3,), classes=2), 'm') == models.mlp(
    widths=(3,), classes=2
  )
  assert set(stages.__all__) and set(data.__all__)


def test_differences_name_each_value():
  old, new = dict(a=dict(b=1, c=2), d=3), dict(a=dict(b=1, c=5), e=4)
  assert config.differences(old, new) == [
    'config.a.c: 2 there, 5 here', 'config.d: 3 there, None here', 'config.e: None there, 4 here',
  ]  # fmt: skip


def test_a_title_may_change_under_a_run_a_setting_may_not(tmp_path):
  first = dict(title='a', figures={}, lottery=dict(rounds=3))
  config.claim(tmp_path, first)
  config.claim(tmp_path, {**first, 'title': 'b'})
  assert json.loads((tmp_path / 'config.json').read_text())['title'] == 'b'
  with pytest.raises(UsageError, match=r'config.lottery.rounds: 3 there, 4 here'):
    config.claim(tmp_path, {**first, 'lottery': dict(rounds=4)})
