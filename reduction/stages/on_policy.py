"""Students of a language model that learn on its words or on their own (Agarwal et al., 2024)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction import losses, models, tree
from reduction.config import call
from reduction.distill.policy import DIRECTIONS, sampled
from reduction.distill.policy import on_policy as loss_of
from reduction.distill.teachers import find
from reduction.errors import did_you_mean, require
from reduction.net import Net, apply, create
from reduction.predict import logits
from reduction.run import Run, Stage
from reduction.train import check_schedule, train
from reduction.update import classification, classified, sgd, start
from reduction.update import optimizer as build_optimizer

LEARNED = 'words', *DIRECTIONS
BLOCK = 100  # texts told, or judged, at a time


class Texts(NamedTuple):
  """So many texts of so many tokens, the first of them `begin`."""

  count: int
  length: int
  begin: int


def on_policy(
  *, student: dict, steps: int, batch: int, optimizer: dict, teacher: str = 'start',
  begins: str | None = None, learns: str = 'reverse', share: float = 1.0,
  temperature: float = 1.0, texts: int = 2_000, held: int = 200, length: int = 48, begin: int = 1,
  every: int = 100,
) -> Stage:  # fmt: skip
  """Trains a student on texts that the teacher tells, or on its own; returns it.

  student: a language model of the teacher's vocabulary. teacher: of `distill.teachers.find`.
  begins: likewise, whose weights the student begins with; None: its own first ones.
  learns: 'words', what the teacher said, as if it were the truth (Kim & Rush 2016), or a divergence
  of `distill.policy.DIRECTIONS` between what both say next. share: of the steps in which the
  student goes on from the first token itself and is judged on that; 0 stays with the teacher's
  texts. temperature: of the divergence. texts, held: how many the teacher tells, to learn from and
  to judge by, hundreds; length: their tokens; begin: the first of them, 1 in llama2.c's files.
  Rows: 'curve', and a 'policy': nats a token of KL(teacher || student) on the held texts,
  `forward`, and of KL(student || teacher) on as many of the student's own, `reverse`.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  require(learns in LEARNED, f'{learns=} is unknown.{did_you_mean(learns, LEARNED)}')
  require(learns != 'words' or share == 0, f"{learns=} are the teacher's: share=0, not {share}")
  for name, value in dict(texts=texts, held=held).items():
    require(value > 0 == value % BLOCK, f'{name}={value} must be hundreds')
  require(length > 1, f'{length=} must be 2 tokens at least')
  module, tx = call(models, student, 'student'), build_optimizer(**optimizer)
  told = Texts(texts + held, length, begin)

  def stage(net: Net, run: Run) -> Net:
    del net
    require(len(run.seeds) == 1, 'students of a language model: give one seed a run')
    guide = find(teacher, run.nets)
    sizes = module.vocabulary, guide.module.vocabulary
    require(sizes[0] == sizes[1], f'the student reads {sizes[0]} tokens, the teacher {sizes[1]}')
    guide = guide.replace(params=tree.map(lambda w: jnp.asarray(w, jnp.float32), guide.params))
    kept = 'texts', teacher, told
    if kept not in run.known:  # the same for all students
      run.known[kept] = telling(guide, told, run.key('data', 7)[0], run.child('teacher'))
    x, others = run.known[kept][:texts], run.known[kept][texts:]
    loss, beside = classification(module), x[:, 1:]  # the next tokens are labels
    if learns != 'words':
      how = dict(share=share, direction=learns, temperature=temperature)
      loss, beside = loss_of(module, guide.module, **how), np.ones(len(x), np.int32)
    fresh = find(begins, run.nets) if begins else create(module, run.key('init', 0), x[:1])
    require(fresh.module == module, f'{begins=} is no net of {student=}')
    last, _ = train(
      sgd(loss, tx), classified(module), start(fresh.params, fresh.stats, None, tx),
      jax.device_put((x, beside)), {}, run, steps=steps, batch=batch, every=every,
      given=({}, dict(live=(guide.params, guide.stats))),
    )  # fmt: skip
    taught = Net(module, last['params'], last['stats'])
    own = telling(taught, told._replace(count=held), run.key('noise', 7)[0], run.child('student'))
    run.log(
      kind='policy', summary=True, seeds=run.seeds, learns=learns, share=share, steps=steps,
      forward=apart(guide, taught, others), reverse=apart(taught, guide, own),
    )  # fmt: skip
    return taught

  return stage


def telling(net: Net, texts: Texts, key, run: Run) -> np.ndarray:
  """int32 [count, length]: texts that net tells, hundreds at a time, in a fold."""
  module, variables = net.module, tree.map(lambda w: w[0], (net.params, net.stats))
  begun = jnp.full((BLOCK, texts.length), texts.begin, jnp.int32)

  @jax.jit
  def tell(variables, key):
    return sampled(lambda t: apply(module, *variables, t), begun, jnp.ones(BLOCK, int), key)

  step = lambda carry, i, run: (carry, np.asarray(tell(variables, jax.random.fold_in(key, i))))
  _, outs = run.fold('texts', step, dict(none=np.zeros(())), texts.count // BLOCK)
  return np.concatenate([np.asarray(out) for out in outs])


def apart(net: Net, other: Net, tokens) -> np.ndarray:
  """[1]: KL(net || other), nats a token of texts [n, length]."""
  each = []
  for i in range(0, len(tokens), BLOCK):
    said, target = (logits(one, tokens[i : i + BLOCK])[:, :, :-1] for one in (other, net))
    each.append(losses.soft_divergence(said, target))
  return np.mean(each, dtype=np.float64, keepdims=True)
