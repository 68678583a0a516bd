"""How much of an ensemble's gain one student keeps (Hinton, Vinyals & Dean, 2015, section 4)."""

import numpy as np

from reduction.data.words import learn, recognize
from reduction.distill.ensembles import combined
from reduction.errors import require
from reduction.net import Net
from reduction.predict import logits
from reduction.run import Run, Stage


def gain(*, single: str, student: str, resamples: int = 2_000) -> Stage:
  """Compares the nets of an earlier stage, their ensemble, and a student of it; returns the net.

  single: the stage whose replicates are the members; their mean accuracy is the baseline, and the
  arithmetic mean of their predictions the ensemble. student: the stage of the students, whose mean
  counts. Rows: a 'system' for each of the three, with the accuracy on test examples and, for frames
  of recordings, the share of words not understood; and one 'gain': what the ensemble and the
  student gain, and the share `kept`, each with its 95 % interval over `resamples` bootstraps of
  test examples, recording by recording where there are some. Where the interval of the ensemble's
  gain holds 0, no share is given.
  """
  require(resamples > 99, f'{resamples=} must be at least 100')

  def stage(net: Net, run: Run) -> Net:
    for name in single, student:
      require(name in run.nets, f'{name!r} is no earlier stage; those are {", ".join(run.nets)}')
    test, clips = run.data.test, run.data.clips and run.data.clips['test']
    members = logits(run.nets[single], test.x)
    found = dict(
      single=members,
      ensemble=np.asarray(combined(members, 1.0))[None],
      student=logits(run.nets[student], test.x),
    )
    models = clips and learn(run.data.train.y, run.data.clips['train'], run.data.classes)
    right = {}
    for name, of_seeds in found.items():
      hits = of_seeds.argmax(-1) == test.y
      row = dict(test_accuracy=hits.mean(1, dtype=np.float32))
      if clips:
        said = [recognize(one, clips, models) for one in of_seeds]
        row['word_error'] = np.array([(s != clips.words).mean() for s in said], np.float32)
      if name == 'ensemble':
        row = {key: float(value[0]) for key, value in row.items()}
      run.log(kind='system', summary=True, net=name, seeds=run.seeds, **row)
      right[name] = hits.mean(0)
    lengths = clips.lengths if clips else np.ones(len(test.y), int)
    seed = run.seeds[0]
    run.log(kind='gain', summary=True, seeds=run.seeds, **kept(right, lengths, resamples, seed))
    return net

  return stage


def kept(right: dict, lengths: np.ndarray, resamples: int, seed: int) -> dict:
  """Gains over right['single'] and the share kept, each with _low and _high of its interval.

  right: single, ensemble, student -> [n], the share of its nets that are right on each example.
  lengths: how many examples in turn are drawn as one.
  """
  ends = np.cumsum(lengths)
  units = {name: np.add.reduceat(values, ends - lengths) for name, values in right.items()}
  drawn = np.random.default_rng(seed).integers(len(lengths), size=(resamples, len(lengths)))

  def measure(at) -> dict:
    accuracy = {name: sums[at].sum(-1) / lengths[at].sum(-1) for name, sums in units.items()}
    return {f'{n}_gain': accuracy[n] - accuracy['single'] for n in ('ensemble', 'student')}

  once, again = measure(np.arange(len(lengths))), measure(drawn)
  row = dict.fromkeys(('kept', 'kept_low', 'kept_high'))
  if np.percentile(again['ensemble_gain'], 2.5) > 0:  # else a share of what may be nothing
    for found in once, again:
      found['kept'] = found['student_gain'] / np.maximum(found['ensemble_gain'], 1e-9)
  for name, values in again.items():
    of_three = once[name], *np.percentile(values, (2.5, 97.5))
    row |= {name + end: float(f'{x:.5g}') for end, x in zip(('', '_low', '_high'), of_three)}
  return row
