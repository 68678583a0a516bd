"""A child of test_memory: packs a tiny language model block by block, each saved when it is done.

Arguments: the data directory with 'tiny' and 'text.txt', the workdir.
"""

import sys

from launch import cli
from reduction import opened, stages
from reduction.data import passages
from reduction.run import Run


def main():
  """Packs, goes on where a killed one was."""
  cli.set_platform('cpu')
  root, workdir = sys.argv[1:3]
  model = opened.language_model('tiny', root)
  how = dict(calibration='text.txt', test='text.txt', examples=12, length=16, test_passages=6)
  data = passages(
    **how, encode=model.encode, vocabulary=model.net.module.vocabulary, data_dir=root
  )
  run = Run(data, workdir=workdir, save_every=0)
  stages.awq(bits=4, group=16, rounding='gptq', follows='packed')(model.net, run)


if __name__ == '__main__':
  main()
