"""Plain training from where a net is: before pruning, or to recover after it."""

import jax

from reduction.data.images import augmentation
from reduction.net import Net, create
from reduction.predict import logits, scores
from reduction.run import Run, Stage
from reduction.train import check_schedule, fit
from reduction.update import optimizer as build_optimizer


def tune(
  *, steps: int, batch: int, optimizer: dict, every: int = 100, best: bool = False,
  augment: str | None = None, afresh: bool = False,
) -> Stage:  # fmt: skip
  """Trains on for `steps`; masks hold.

  every: steps between evaluations. best: return the weights of the lowest validation loss instead
  of the last. augment: how training images change, a name of `data.augment`; by default as the data
  say. afresh: begins with newly drawn weights, which shows what those of the net that comes were
  worth. Rows: 'curve', and one 'tune'.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  tx, change = build_optimizer(**optimizer), augmentation(augment)

  def stage(net: Net, run: Run) -> Net:
    if afresh:
      drawn = create(net.module, run.key('init', 1), run.data.train.x[:1])
      net = drawn.replace(masks=net.masks)
    splits = jax.device_put(run.data.splits())
    last, found = fit(net, run, splits, tx, steps=steps, batch=batch, every=every,
                      augment=change)  # fmt: skip
    chosen = net.replace(params=found.params, stats=found.stats) if best else last
    run.log(
      kind='tune', summary=True, seeds=run.seeds, steps=steps,
      early_stop_step=found.step, validation_loss=found.loss,
      **scores(logits(chosen, splits['test'].x), splits['test'].y),
    )  # fmt: skip
    return chosen

  return stage
