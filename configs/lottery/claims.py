"""What the papers say of LeNet-300-100, beside which reports put the rows.

Accuracies are those at early stop. `reduction.report.claims` documents the measures.
"""

import functools

from configs.claims import lines

DENSE, TICKET, REINIT = dict(net='ticket', kept=1.0), dict(net='ticket'), dict(net='reinit')
STEP, BETTER = 'early_stop_step', ('early_stop_test_accuracy', 'difference')


def measure(net, kept, key, how, against=None, kind='level'):
  """A claim's measure: a net at a fraction of its weights, and what it is compared with."""
  row = dict(kind=kind, net=net, kept=kept, key=key, how=how)
  return row if against is None else dict(row, against=against)


ticket, reinit = functools.partial(measure, 'ticket'), functools.partial(measure, 'reinit')


def resetting():
  """Section 2 and figures 1, 3 and 4: iterative pruning with a reset at every level."""
  return lines(
    R1=('accuracy of the dense net', '98.1 to 98.3 % (figure)',
        ticket(1.0, 'early_stop_test_accuracy', 'value')),
    R2=('early stop at 21.1 %, against dense', '38 % sooner',
        ticket(0.211, STEP, 'relative', DENSE)),
    R3=('accuracy at 13.5 %, against dense', '+0.3 pp', ticket(0.135, *BETTER, DENSE)),
    R4a=('accuracy at 3.6 %, against dense', 'equal', ticket(0.036, *BETTER, DENSE)),
    R4b=('accuracy at 2.9 %, against dense', 'begins to fall', ticket(0.029, *BETTER, DENSE)),
    R5a=('early stop of the reinit at 21.1 %, against its ticket', '2.51 times later',
         reinit(0.211, STEP, 'ratio', TICKET)),
    R5b=('accuracy of the reinit at 21.1 %, against its ticket', '-0.5 pp',
         reinit(0.211, *BETTER, TICKET)),
    R5c=('accuracy of the reinit at 21.1 %, against dense', 'begins to fall',
         reinit(0.211, *BETTER, DENSE)),
    R5d=('accuracy of the reinit at 3.6 %, against dense', 'far below (figure)',
         reinit(0.036, *BETTER, DENSE)),
    **{f'R5{letter}': (f'accuracy of the reinit at {100 * kept:.1f} %, against its ticket', said,
                       reinit(kept, *BETTER, TICKET))
       for letter, kept, said in (('e', 0.513, 'equal (figure)'), ('f', 0.329, 'worse (figure)'),
                                  ('g', 0.135, 'worse (figure)'), ('h', 0.07, 'worse (figure)'),
                                  ('i', 0.036, 'far below (figure)'))},
  )  # fmt: skip


def one_shot(iterative: dict):
  """Figure 4. iterative: names the run that prunes step by step, {'run': 'lottery/lenet'}."""
  return lines(
    R6a=('one-shot: early stop at 21.1 %, against dense', 'sooner, down to 17.6 %',
         ticket(0.211, STEP, 'relative', DENSE)),
    R6b=('one-shot: accuracy at 7.0 %, against dense', 'better, down to 5.2 %',
         ticket(0.07, *BETTER, DENSE)),
    R6c=('one-shot: early stop at 7.0 %, against the iterative ticket', 'later (figure)',
         ticket(0.07, STEP, 'ratio', iterative)),
    R6d=('one-shot: accuracy at 7.0 %, against the iterative ticket', 'worse (figure)',
         ticket(0.07, *BETTER, iterative)),
    R6e=('one-shot: accuracy at 3.6 %, against the iterative ticket', 'worse (figure)',
         ticket(0.036, *BETTER, iterative)),
  )  # fmt: skip


def continued(iterative: dict):
  """Figure 9, appendix B. iterative: names the run that resets, {'run': 'lottery/lenet'}."""
  return lines(
    R6f=('continued: early stop at 21.1 %, against resetting', 'later (figure)',
         ticket(0.211, STEP, 'ratio', iterative)),
    R6g=('continued: accuracy at 21.1 %, against resetting', 'little below (figure)',
         ticket(0.211, *BETTER, iterative)),
    R6h=('continued: accuracy at 8.7 %, against resetting', 'worse (figure)',
         ticket(0.087, *BETTER, iterative)),
    R6i=('continued: accuracy at 3.6 %, against resetting', 'worse (figure)',
         ticket(0.036, *BETTER, iterative)),
  )  # fmt: skip


def controls():
  """Appendices E and F; Zhou et al. 2019; Frankle et al. 2020."""
  instability = dict(key='instability', how='value', kind='instability')
  return lines(
    R7a=('accuracy with noise of 0.5 sigma at 21.1 %, against its ticket', 'barely hurts',
         measure('noise 0.5', 0.211, *BETTER, TICKET)),
    R7b=('accuracy with noise of 3 sigma at 21.1 %, against its reinit', 'still better',
         measure('noise 3', 0.211, *BETTER, REINIT)),
    R7c=('accuracy of the random mask at 21.1 %, against the reinit', 'worse (appendix E)',
         measure('random', 0.211, *BETTER, REINIT)),
    R7d=('accuracy of the shuffled weights at 21.1 %, against the reinit', 'little better (F.3)',
         measure('shuffled', 0.211, *BETTER, REINIT)),
    R7e=('accuracy when pruned at step 0 to 21.1 %, against the reinit', 'worse (F.4)',
         measure('early', 0.211, *BETTER, REINIT)),
    R7f=('early stop with noise of 3 sigma at 21.1 %, against its reinit', 'sooner',
         measure('noise 3', 0.211, STEP, 'ratio', REINIT)),
    R7g=('accuracy of constants with the signs at 21.1 %, against the reinit',
         'as the ticket (Zhou et al. 2019)', measure('constant', 0.211, *BETTER, REINIT)),
    R7h=('accuracy of a reinit with the signs at 21.1 %, against one without',
         'better (Zhou et al. 2019)', measure('reinit_signs', 0.211, *BETTER, REINIT)),
    R8a=('instability of the dense net (Frankle et al. 2020)', 'stable: below 2 pp',
         measure('reordered', 1.0, **instability)),
    R8b=('instability of the ticket at 21.1 %', 'stable: below 2 pp',
         measure('reordered', 0.211, **instability)),
  )  # fmt: skip


def random():
  """Figure 1's dashed lines: the mean of ten random masks."""
  early = lambda kept: measure('random', kept, STEP, 'ratio', TICKET)
  right = lambda kept: measure('random', kept, *BETTER, TICKET)
  return lines(
    F1a=('early stop of random masks at 51.3 %, against the ticket', 'later', early(0.513)),
    F1b=('early stop of random masks at 21.1 %, against the ticket', 'later', early(0.211)),
    F1c=('early stop of random masks at 3.6 %, against the ticket', 'later', early(0.036)),
    F1d=('accuracy of random masks at 51.3 %, against the ticket', 'equal (figure)', right(0.513)),
    F1e=('accuracy of random masks at 21.1 %, against the ticket', 'worse (figure)', right(0.211)),
    F1f=('accuracy of random masks at 3.6 %, against the ticket', 'worse (figure)', right(0.036)),
  )  # fmt: skip


def conv2(fast: float, best: float):
  """Section 3 and figure 5, Conv-2: at 8.8 % it stops soonest, at 4.6 % its accuracy is best.

  fast, best: the fractions at which this is looked for.
  """
  at = lambda kept: f'{100 * kept:.1f} %'
  other = functools.partial(measure, kept=fast, key=BETTER[0], how=BETTER[1], against=TICKET)
  return lines(
    R9a=(f'early stop at {at(fast)}, against dense', '3.5 times sooner at 8.8 %',
         ticket(fast, STEP, 'ratio', DENSE)),
    R9b=(f'accuracy at {at(fast)}, against dense', 'better (figure)', ticket(fast, *BETTER, DENSE)),
    R9c=(f'accuracy at {at(best)}, against dense', '+3.4 pp at 4.6 %',
         ticket(best, *BETTER, DENSE)),
    R9d=(f'accuracy of the reinit at {at(fast)}, against its ticket', 'worse (figure)',
         other('reinit')),
    R9e=(f'accuracy of the random mask at {at(fast)}, against the ticket', 'worse (appendix E)',
         other('random')),
  )  # fmt: skip
