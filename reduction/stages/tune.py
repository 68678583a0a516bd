"""Plain training from where a net is: before pruning, or to recover after it."""

import jax

from reduction.net import Net, over_replicas
from reduction.run import Run, Stage
from reduction.train import check_schedule, fit
from reduction.update import classified
from reduction.update import optimizer as build_optimizer


def tune(*, steps: int, batch: int, optimizer: dict, every: int = 100, best: bool = False) -> Stage:
  """Trains on for `steps`; masks hold.

  every: steps between evaluations. best: return the weights of the lowest validation loss instead
  of the last. Rows: 'curve', and one 'tune'.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  tx = build_optimizer(**optimizer)

  def stage(net: Net, run: Run) -> Net:
    splits = jax.device_put(run.data.splits())
    last, found = fit(net, run, splits, tx, steps=steps, batch=batch, every=every)
    chosen = net.replace(params=found.params, stats=found.stats) if best else last
    score = over_replicas(classified(net.module), (0, 0, None))
    run.log(
      kind='tune', summary=True, seeds=run.seeds, steps=steps,
      early_stop_step=found.step, validation_loss=found.loss,
      test_accuracy=score(chosen.params, chosen.stats, splits['test'])['accuracy'],
    )  # fmt: skip
    return chosen

  return stage
