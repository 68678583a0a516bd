"""A teacher and its students as a PyTorch user trains them: the peer of configs/bench/distill.py.

Needs torch alone. The first line of stdin holds the settings, each further line a job.

For its speed: all data in memory, fused Adam where asked, gradients set to None, images moved by
one gather for a whole batch (torchvision moves them singly), and as many threads as a trial finds
fastest.
"""

import json
import math
import sys
import time

try:
  import torch
  from torch import nn
  from torch.nn import functional as F
except ModuleNotFoundError as error:
  print(json.dumps(dict(missing=error.name)), flush=True)
  sys.exit()

EXAMPLES, JITTER, T, MOST = 60_000, 2, 20.0, 3.87


def network(widths, dropout):
  """Linear layers with relu; dropout of 20 % of the inputs and half of the hidden units."""
  layers = [nn.Dropout(0.2)] if dropout else []
  for i, o in zip((784, *widths), widths):
    layers += [nn.Linear(i, o), nn.ReLU()] + ([nn.Dropout(0.5)] if dropout else [])
  return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def moved(x):
  """Images [n, 28, 28], each moved by up to JITTER pixels each way."""
  n, size = len(x), 28
  padded = F.pad(x, (JITTER,) * 4)
  corner = torch.randint(0, 2 * JITTER + 1, (2, n, 1, 1))
  rows = corner[0] + torch.arange(size)[:, None]
  columns = corner[1] + torch.arange(size)
  return padded[torch.arange(n)[:, None, None], rows, columns]


def trainer(lesson, settings, data):
  """go(steps) trains a fresh network."""
  x, y, logits = data
  teaching = lesson == 'teacher'
  model = network(settings['teacher' if teaching else 'student'], teaching)
  hidden = [m.weight for m in model if isinstance(m, nn.Linear)][:-1]
  fused = settings['fused'] or None  # None is what PyTorch chooses
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
  batch = settings['batch']

  def go(steps):
    order = torch.randperm(EXAMPLES)
    for step in range(steps):
      at = order[(step * batch) % EXAMPLES :][:batch]
      optimizer.param_groups[0]['lr'] = 5e-4 * (1 + math.cos(math.pi * step / 100_000))
      optimizer.zero_grad()
      images = moved(x[at]) if teaching else x[at]
      output = model(images.flatten(1))
      loss = F.cross_entropy(output, y[at])
      if lesson == 'soft':
        soft = F.softmax(logits[at] / T, 1)
        loss = 0.1 * loss - T * T * (soft * F.log_softmax(output / T, 1)).sum(1).mean()
      loss.backward()
      optimizer.step()
      if teaching:
        with torch.no_grad():
          for w in hidden:
            w.mul_(MOST / w.norm(dim=1, keepdim=True).clamp(min=MOST))

  return go


def seconds(go, steps):
  """How long steps take."""
  began = time.perf_counter()
  go(steps)
  return time.perf_counter() - began


def main():
  """Answers until stdin ends."""
  settings = json.loads(sys.stdin.readline())
  torch.manual_seed(0)
  data = (
    torch.rand(EXAMPLES, 28, 28), torch.randint(0, 10, (EXAMPLES,)), 5 * torch.randn(EXAMPLES, 10)
  )  # fmt: skip
  go, best = trainer('hard', settings, data), {}
  for threads in (1, torch.get_num_threads()):
    torch.set_num_threads(threads)
    go(5)
    best[threads] = min(seconds(go, 20) for _ in range(2))
  torch.set_num_threads(min(best, key=best.get))
  about = f'torch {torch.__version__}, threads: {torch.get_num_threads()}'
  print(json.dumps(dict(about=about)), flush=True)
  for line in sys.stdin:
    job = json.loads(line)
    go = trainer(job['lesson'], settings, data)
    print(json.dumps(dict(seconds=seconds(go, job['steps']))), flush=True)


if __name__ == '__main__':
  main()
