"""Deep mutual learning (Zhang et al. 2018): two students that teach each other, and no teacher."""

import jax

from reduction import models, tree
from reduction.config import call
from reduction.distill import mutual as both
from reduction.distill.matching import apart, one_of
from reduction.distill.transfer import subset
from reduction.net import Net, all_kept, create
from reduction.predict import logits, scores
from reduction.run import Run, Stage
from reduction.train import check_schedule, train
from reduction.update import classified, start
from reduction.update import optimizer as build_optimizer


def mutual(
  *,
  steps: int,
  batch: int,
  optimizer: dict,
  peer: dict,
  student: dict | None = None,
  joint: bool = False,
  transfer: dict | None = None,
  every: int = 100,
  best: bool = False,
) -> Stage:
  """Trains a student and its peer, each on the labels and on KL(the other || itself).

  student: a model that starts afresh; None trains the net that comes, its masks kept. peer: a model
  too, which starts from other weights. joint: gradients go into the other's output as well.
  transfer, every, best: as in `distill`, by the student's validation loss. Returns the student.
  Rows: 'curve', and a 'distill' with the peer's scores beside. 1706.00384, section 3.
  """
  timing = dict(steps=steps, batch=batch, every=every)
  check_schedule(**timing)
  first = call(models, student, 'student') if student else None
  second = call(models, peer, 'peer')
  named = ' '.join(map(str, tree.leaves(student))) if student else 'the net that came'
  tx = build_optimizer(**optimizer)

  def stage(net: Net, run: Run) -> Net:
    splits = run.data.splits()
    chosen = subset(splits['train'].y, **(transfer or {}))
    x, y = (values[chosen] for values in splits['train'])
    a = create(first, run.key('init', 0), x[:1]) if first else net
    b = create(second, run.key('init', 1), x[:1])
    pair, of_both = dict(a=a, b=b), apart(a=tx, b=tx)
    masks = {n: all_kept(one.params) if one.masks is None else one.masks for n, one in pair.items()}
    params, stats = ({n: getattr(one, part) for n, one in pair.items()} for part in FIELDS)
    last, found = train(
      both.mutual(a.module, b.module, of_both, joint=joint), one_of(classified(a.module), 'a'),
      start(params, stats, masks, of_both), jax.device_put((x, y)),
      {n: jax.device_put(splits[n]) for n in ('validation',) if len(splits[n].y)}, run,
      augment=run.data.augment, **timing,
    )  # fmt: skip
    params, stats = (found.params, found.stats) if best else (last['params'], last['stats'])
    taught = {n: one.replace(params=params[n], stats=stats[n]) for n, one in pair.items()}
    test = splits['test']
    each = {n: scores(logits(one, test.x), test.y) for n, one in taught.items()}
    run.log(
      kind='distill', summary=True, student=named, seeds=run.seeds, steps=steps, examples=len(y),
      early_stop_step=found.step, validation_loss=found.loss, **each['a'],
      **{f'peer_{name}': value for name, value in each['b'].items()},
    )  # fmt: skip
    return taught['a']

  return stage


FIELDS = 'params', 'stats'
