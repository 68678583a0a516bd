"""The figures of Frankle & Carbin 2019 as data; `reduction.report.figures` documents the keys."""

NAMES = dict(ticket='winning ticket', reinit='random reinit', random='random mask')
REMAINING = dict(
  kind='level', x='kept', x_scale='log', x_reverse=True, dashed=('reinit', 'random'),
  x_label='weights remaining (%)',
)  # fmt: skip


def figure1():
  """Learning speed and accuracy against the weights that remain."""
  return dict(
    REMAINING,
    title='Figure 1: when training stops early, and how well',
    caption='The step of the lowest validation loss, and the test accuracy at that step.',
    lines='net',
    names=NAMES,
    panels=dict(
      a=dict(title='Early-stop step', y='early_stop_step'),
      b=dict(title='Test accuracy at early stop', y='early_stop_test_accuracy'),
    ),
  )


def figure3(y_range: tuple[float, float]):
  """Test accuracy as training proceeds, a line for each fraction of weights that remain."""
  ticket = lambda *kept: dict(where=dict(net='ticket', kept=kept))
  return dict(
    title='Figure 3: test accuracy as training proceeds',
    caption='Dashed: the same mask with its weights drawn anew.',
    kind='curve',
    x='step',
    y='test_accuracy',
    y_range=y_range,
    lines=('kept', 'net'),
    dashed=('reinit',),
    names=NAMES,
    panels=dict(
      a=ticket(1.0, 0.513, 0.211),
      b=ticket(1.0, 0.513, 0.211, 0.07, 0.036, 0.019),
      c=dict(where=dict(net=('ticket', 'reinit'), kept=(1.0, 0.513, 0.211))),
    ),
  )


def figure4(one_shot: str):
  """Both procedures and their controls. one_shot: the name of the run that pruned at once."""
  return dict(
    REMAINING,
    title='Figure 4: iterative and one-shot pruning',
    lines=('run', 'net'),
    where=dict(run=('this run', one_shot), net=('ticket', 'reinit')),
    names={**NAMES, 'this run': 'iterative', one_shot: 'one-shot'},
    panels=dict(
      a=dict(title='(a) Early-stop step', y='early_stop_step'),
      b=dict(title='(b) Test accuracy at early stop', y='early_stop_test_accuracy'),
      c=dict(title='(c) Test accuracy at the end', y='test_accuracy'),
      d=dict(title='(d) Training accuracy at the end', y='train_accuracy'),
    ),
  )


def figure9(continued: str):
  """Both ways to prune step by step. continued: the name of the run that did not reset."""
  return dict(
    REMAINING,
    title='Figure 9: resetting and continued training',
    caption='Tickets of masks found with and without a reset at each level, trained alike.',
    lines='run',
    where=dict(run=('this run', continued), net='ticket'),
    names={'this run': 'resetting', continued: 'continued training'},
    panels=dict(
      a=dict(title='Early-stop step', y='early_stop_step'),
      b=dict(title='Test accuracy at early stop', y='early_stop_test_accuracy'),
    ),
  )


def figure5(runs: dict[str, str]):
  """Convolutional networks: early stop and accuracies. runs: name of a run -> its network."""
  return dict(
    REMAINING,
    title='Figure 5: early stop, and accuracy there and at the end',
    lines=('run', 'net'),
    where=dict(run=('this run', *runs), net=('ticket', 'reinit', 'random')),
    dashed=('reinit', 'random'),
    names={**NAMES, 'random': 'random mask and weights', **runs},
    panels=dict(
      a=dict(title='Early-stop step', y='early_stop_step'),
      b=dict(title='Test accuracy at early stop', y='early_stop_test_accuracy'),
      c=dict(title='Training accuracy at early stop', y='early_stop_train_accuracy'),
      d=dict(title='Test accuracy at the end', y='test_accuracy'),
    ),
  )


def figure7(steps: tuple[int, ...], runs: dict[str, str]):
  """Deep networks: test accuracy after some steps, a panel each. runs: name of a run -> legend."""
  nets = ('ticket', 'reinit')
  panel = lambda step: dict(title=f'At step {step:,}', where=dict(step=step, net=nets))
  return dict(
    title='Figures 7 and 8: test accuracy as training proceeds',
    kind='curve',
    x='kept',
    x_scale='log',
    x_reverse=True,
    x_label='weights remaining (%)',
    y='test_accuracy',
    lines=('run', 'net'),
    where=dict(run=('this run', *runs)),
    dashed=('reinit',),
    names={**NAMES, **runs},
    panels={chr(ord('a') + i): panel(step) for i, step in enumerate(steps)},
  )


def histograms(layers: tuple[str, ...]):
  """The first weights of what survives, layer by layer (appendix F.1)."""
  return dict(
    title='First weights of the winning tickets',
    caption='Density of the surviving first weights, in standard deviations of the whole layer.',
    kind='histogram',
    x='weight',
    x_label='first weight (standard deviations)',
    y='density',
    lines='kept',
    spread='band',
    panels={
      chr(ord('a') + i): dict(title=layer, where=dict(layer=layer))
      for i, layer in enumerate(layers)
    },
  )


def connectivity():
  """Accuracy on the line between two trainings that differ in data order (Frankle et al. 2020)."""
  return dict(
    title='Linear mode connectivity',
    caption='From a net to its twin, trained from the same first weights in another data order.',
    kind='path',
    x='share',
    x_label='share of the twin',
    y='test_accuracy',
    lines='kept',
    spread='band',
  )


def deconstructed():
  """Other first weights under the ticket's mask, trained and untrained (Zhou et al. 2019)."""
  return dict(
    REMAINING,
    title='What of a ticket matters',
    lines='net',
    dashed=('reinit', 'shuffled'),
    names={
      **NAMES, 'reinit_signs': 'random reinit, signs kept', 'shuffled': 'reshuffled',
      'constant': 'constant, signs kept', 'frozen': 'pruned weights frozen',
    },
    panels=dict(
      a=dict(title='Test accuracy at early stop', y='early_stop_test_accuracy'),
      b=dict(title='Test accuracy before training', y='start_test_accuracy'),
    ),
  )  # fmt: skip
