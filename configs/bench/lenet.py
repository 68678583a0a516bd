"""LeNet-300-100, batch 60, Adam, masks, validation every 100 steps: our speed beside PyTorch's.

Wanted on two CPU cores: at least 2 times the steps a second of the same protocol in PyTorch,
evaluation at most 20 % of the time, `import reduction` under 1.5 s. Found on 2 x AMD EPYC, with
evaluation, two seeds at once: 2.28 times PyTorch's with AVX-512 and 20 % in evaluation, 1.87 and 22
% with AVX2; one seed 1.75 and 1.57. Import 0.02 s, as Python itself.

    python -m launch.bench --config=configs/bench/lenet.py [--data_dir=DATA] [--out=rows.jsonl]

PyTorch is `pip install -e .[bench]`, or in another Python that --peer_python names. Without MNIST
the values are random: the times hold, the losses mean nothing. Seven minutes; 'quick': half a
minute, one seed. On a machine that does other work only the ratios mean something.
"""

from ml_collections import config_dict

from configs.variants import split


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Training LeNet-300-100'
  c.benches = ('training', 'imports')
  c.training = dict(
    data=dict(name='mnist', validation=5_000),
    model=dict(name='lenet', widths=(300, 100)),
    optimizer=dict(name='adam', learning_rate=1.2e-3),
    batch=60,
    every=100,
    steps=200 if quick else 1_000,
    repeats=2 if quick else 5,
    replicas=(1,) if quick else (1, 2, 5),  # seeds at once
    kept=0.211,  # level 7 of the paper's pruning; it changes no shape and no time
    peers=('torch',) if quick else ('torch', 'torch_processes'),
  )
  c.imports = dict(modules=('reduction', 'reduction.train'), repeats=2 if quick else 5)
  return c
