"""Two students that teach each other, on real digits."""

import numpy as np
import pytest

from reduction import models, stages, tree
from reduction.errors import UsageError
from reduction.net import create
from reduction.run import Run

SETTINGS = dict(
  steps=300, batch=60, every=100, optimizer=dict(name='adam', learning_rate=3e-3),
  peer=dict(name='mlp', widths=(16,)), transfer=dict(share=0.5),
)  # fmt: skip


def test_both_learn_and_the_student_keeps_its_masks(digits):
  run = Run(digits, seeds=(0, 1))
  net = create(models.mlp(widths=(20,)), run.key('init', 0), digits.train.x[:1])
  masks = tree.map(lambda w: w > 0 if w.ndim > 2 else w == w, net.params)
  net = net.replace(params=tree.keep(net.params, masks), masks=masks)
  taught = stages.mutual(**SETTINGS)(net, run)
  (row,) = (row for row in run.rows if row['kind'] == 'distill')
  assert min(row['test_accuracy'] + row['peer_test_accuracy']) > 0.85
  assert row['examples'] == round(len(digits.train.y) / 2) and row['student'] == 'the net that came'
  assert taught.module.widths == (20,)
  for w, mask in zip(tree.leaves(taught.params), tree.leaves(masks), strict=True):
    assert not np.asarray(w)[~np.asarray(mask)].any()
  curve = [row for row in run.rows if row['kind'] == 'curve']
  assert (np.array(curve[-1]['a_kl']) < curve[0]['a_kl']).all()
  assert (np.array(curve[-1]['b_hard_loss']) < curve[0]['b_hard_loss']).all()


def test_wrong_settings_are_refused():
  with pytest.raises(UsageError, match=r'peer.width|no .width'):
    stages.mutual(**dict(SETTINGS, peer=dict(name='mlp', width=(16,))))
  with pytest.raises(UsageError, match='every=7 must divide'):
    stages.mutual(**dict(SETTINGS, every=7))
