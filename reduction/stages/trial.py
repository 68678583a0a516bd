"""A net to train from its first weights, and what is logged of it; the line between two nets."""

import math
from typing import NamedTuple

import numpy as np

from reduction import path, tree
from reduction.net import Net, over_replicas
from reduction.run import Run
from reduction.train import fit
from reduction.update import classified


class Start(NamedTuple):
  """A net to train. part: its name in the run. net: what rows call it. frozen, shuffle: of `fit`.

  points: on the line to the ticket, whose accuracy is measured where there are some.
  """

  part: str
  net: str
  first: Net
  frozen: bool = False
  shuffle: int = 0
  points: int = 0


def at_step(schedule: dict, net: Net, run: Run, splits) -> Net:
  """net as it is at the first step of a schedule, to which tickets are rewound."""
  step = schedule['first']
  if not step:
    return net
  before = dict(schedule, first=0, steps=step, every=math.gcd(step, schedule['every']))
  return fit(net, run.child('before'), splits, **before)[0]


def trial(start: Start, part: Run, splits, **schedule) -> Net:
  """Trains from masked first weights, and logs how that went."""
  how = dict(frozen=start.frozen, shuffle=start.shuffle)
  last, best = fit(start.first, part, splits, **how, **schedule)
  score = over_replicas(classified(last.module), (0, 0, None))
  row = dict(early_stop_step=best.step, validation_loss=best.loss, steps=schedule['steps'])
  for when, at in ('early_stop_', best), ('', last):
    for split in 'train', 'test':
      row[f'{when}{split}_accuracy'] = score(at.params, at.stats, splits[split])['accuracy']
  first = start.first.params if start.frozen else tree.keep(start.first.params, start.first.masks)
  row['start_test_accuracy'] = score(first, start.first.stats, splits['test'])['accuracy']
  part.log(kind='level', summary=True, seeds=part.seeds, **row)
  return last


def connect(a: Net, b: Net, part: Run, splits, points: int):
  """Logs the accuracy on the line between two nets, and how far it falls."""
  along = over_replicas(path.accuracies(a.module, points), (0, 0, 0, None, None))
  line = along(a.params, b.params, a.stats, splits['train'][0], splits['test'])
  shares = np.linspace(0, 1, points)
  for share, accuracy in zip(shares, line.T):
    part.log(kind='path', summary=True, share=round(float(share), 4), seeds=part.seeds,
             test_accuracy=accuracy)  # fmt: skip
  part.log(kind='instability', summary=True, seeds=part.seeds, instability=path.instability(line))


def histograms(first: Net, part: Run, names: list[str], bins: int = 41):
  """Logs the density of the surviving first weights of each named layer, in its deviations."""
  masks = dict(tree.named(first.masks))
  for name, weights in tree.named(first.params):
    if name not in names:
      continue
    weights, alive = np.asarray(weights), np.asarray(masks[name])
    edges = np.linspace(-4, 4, bins + 1)
    found = [np.histogram(w[m] / w.std(), edges, density=True)[0] for w, m in zip(weights, alive)]
    for center, density in zip((edges[1:] + edges[:-1]) / 2, np.transpose(found)):
      part.log(kind='histogram', summary=True, layer=name, weight=round(float(center), 4),
               density=density.round(5), seeds=part.seeds)  # fmt: skip
