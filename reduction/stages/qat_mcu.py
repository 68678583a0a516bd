"""Training of a net in the integers of a microcontroller (Jacob et al. 2018, section 3).

What `microcontroller` writes is then the net that was trained, with the ranges that training left.
"""

import jax

from reduction.data.images import augmentation
from reduction.errors import require
from reduction.mcu.rounded import Rounded, prepared
from reduction.models.served import Served
from reduction.net import Net
from reduction.predict import logits, scores
from reduction.run import Run, Stage
from reduction.train import check_schedule, fit
from reduction.update import optimizer as build_optimizer


def qat_mcu(
  *, steps: int, batch: int, optimizer: dict, bits: int = 8, images: int = 256,
  decay: float = 0.99, freeze: int = 0, every: int = 100, best: bool = False,
  augment: str | None = None, of: str | None = None,
) -> Stage:  # fmt: skip
  """Trains on for `steps` as the int8 network computes; returns the net that computes so.

  Convolutions, depthwise ones and dense layers: weights symmetric by output in so many `bits`, with
  normalization folded in, biases of 32 bits, activations of 8 bits with a zero point, wherever
  `mcu.from_flax` makes a tensor. The ranges of activations begin with those of so many training
  `images` and follow what training sees; they are in the net's stats, by tensor, for
  `microcontroller` to find. Weights stay floats in the net, and masks hold. bits, decay, freeze: of
  `mcu.rounded.Rounded`. steps, batch, optimizer, every, best, augment: as for `tune`. of: the stage
  whose net to train, by default the one before. Rows: 'curve', and one 'qat', with the accuracy
  `before` training, which is that of rounding alone.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  require(images > 0, f'{images=} must be above 0')
  tx, change = build_optimizer(**optimizer), augmentation(augment)
  settings = dict(bits=bits, decay=decay, freeze=freeze)
  Rounded(None, **settings)  # raises UsageError

  def stage(net: Net, run: Run) -> Net:
    require(of in (None, *run.nets), f'{of=} names no stage before this one')
    net = run.nets[of] if of else net
    require(not isinstance(net.module, Served), 'the net is quantized already')
    start = prepared(net, run.data.train.x[:images], **settings)
    splits = jax.device_put(run.data.splits())
    judge = lambda net: scores(logits(net, splits['test'].x), splits['test'].y)
    before = judge(start)
    last, early = fit(start, run, splits, tx, steps=steps, batch=batch, every=every,
                      augment=change)  # fmt: skip
    chosen = start.replace(params=early.params, stats=early.stats) if best else last
    run.log(
      kind='qat', summary=True, seeds=run.seeds, steps=steps, bits=bits,
      early_stop_step=early.step, validation_loss=early.loss, before=before['test_accuracy'],
      **judge(chosen),
    )  # fmt: skip
    return chosen

  return stage
