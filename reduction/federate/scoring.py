"""What a federation's nets score on the test split, and whose updates were refused."""

import numpy as np

from reduction.net import Net
from reduction.predict import logits, scores
from reduction.ranking import binary, offered
from reduction.run import Run


def log_refusals(run: Run, refused):
  """A 'refusals' for each client some of whose updates were refused, of refused int [R, C]."""
  for client in np.flatnonzero(np.asarray(refused).any(0)):
    run.log(kind='refusals', summary=True, seeds=run.seeds, client=int(client),
            refused=refused[:, client])  # fmt: skip


def together(knows: list[dict]) -> dict:
  """Clients' scores, as of `tested`, as one: the means, and of accuracy the worst and the best."""
  if not knows:
    return {}
  found = {name.removeprefix('test_'): np.stack([one[name] for one in knows]) for name in knows[0]}
  ends = dict(worst=found['accuracy'].min(0), best=found['accuracy'].max(0))
  return {name: values.mean(0) for name, values in found.items()} | ends


def tested(net: Net, run: Run) -> dict:
  """What net [R] scores on the test split: of two classes F and more, of lists AUC and more."""
  test = run.data.test
  said = logits(net, test.x)
  found = scores(said, test.y)
  if run.data.classes == 2:
    found |= binary(said, test.y)
  if hasattr(net.module, 'history'):  # a recommender
    found |= offered(said, test.y)
  return found
