"""LeNet-300-100 with masks, as a PyTorch user writes it: the peer of configs/bench/lenet.py.

Needs torch and numpy alone. `launch.bench` runs it and gives it jobs, a line of JSON each; the
first line holds the settings.

For its speed: all data in memory as float32, fused Adam (half the time of the unfused one),
gradients set to None, masks multiplied into the weights after the step (5 % faster than into the
gradients), validation in blocks of 500 (a third faster than at once), and as many threads as a
trial finds fastest. torch.compile of the forward and the backward pass compiles for 37 s and then
gains nothing: left out.
"""

import json
import math
import sys
import time

try:
  import numpy as np
  import torch
except ModuleNotFoundError as error:
  print(json.dumps(dict(missing=error.name)), flush=True)
  sys.exit()


def lenet(widths, inputs, classes, seed):
  """Gaussian Glorot weights, biases 0."""
  torch.manual_seed(seed)
  layers = []
  for fan_in, fan_out in zip((inputs, *widths), (*widths, classes)):
    linear = torch.nn.Linear(fan_in, fan_out)
    torch.nn.init.xavier_normal_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    layers += [linear, torch.nn.ReLU()]
  return torch.nn.Sequential(*layers[:-1])


def batches(examples, size):
  """Indices of batches, a fresh shuffle each epoch."""
  while True:
    yield from torch.randperm(examples)[: examples // size * size].split(size)


def largest(weight, kept):
  """The mask of the `kept` share of weight that is largest."""
  count = max(1, round(weight.numel() * kept))
  return (weight.abs() >= weight.abs().flatten().topk(count).values[-1]).float()


def train(data, settings, seed, steps, evaluated):
  """Trains one seed; returns the lowest validation loss, None where it was not evaluated."""
  x, y, validation_x, validation_y = data
  model = lenet(settings['widths'], x.shape[1], settings['classes'], seed)
  weights = [p for p in model.parameters() if p.ndim > 1]
  with torch.no_grad():
    masks = [largest(w, settings['kept']) for w in weights]
    for w, mask in zip(weights, masks):
      w.mul_(mask)
  optimizer = torch.optim.Adam(model.parameters(), lr=settings['learning_rate'], fused=True)
  order, total = batches(len(x), settings['batch']), torch.zeros(())
  best_loss, best, rows = math.inf, None, []
  for step in range(1, steps + 1):
    at = next(order)
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x[at]), y[at])
    loss.backward()
    optimizer.step()
    with torch.no_grad():
      total += loss
      for w, mask in zip(weights, masks):
        w.mul_(mask)
    if evaluated and step % settings['every'] == 0:
      with torch.inference_mode():
        logits = torch.cat([model(block) for block in validation_x.split(500)])
        validation_loss = torch.nn.functional.cross_entropy(logits, validation_y).item()
        accuracy = (logits.argmax(1) == validation_y).float().mean().item()
      rows.append((step, total.item() / settings['every'], validation_loss, accuracy))
      total.zero_()
      if validation_loss < best_loss:
        best_loss, best = validation_loss, [p.detach().clone() for p in model.parameters()]
  del best  # kept as a user keeps it
  return best_loss if evaluated else None


def fastest_threads(work):
  """Threads, one or all, with which work() takes the least time in three trials of each."""
  work()
  seconds = {n: [] for n in (1, torch.get_num_threads())}
  for _ in range(3):
    for n, times in seconds.items():
      torch.set_num_threads(n)
      began = time.perf_counter()
      work()
      times.append(time.perf_counter() - began)
  return min(seconds, key=lambda n: min(seconds[n]))


def main():
  """Answers until stdin ends."""
  settings = json.loads(sys.stdin.readline())
  if settings['threads']:
    torch.set_num_threads(settings['threads'])
  with np.load(settings['data']) as file:
    x, y, vx, vy = (file[key] for key in ('x', 'y', 'validation_x', 'validation_y'))
  data = (
    torch.from_numpy(x.reshape(len(x), -1)), torch.from_numpy(y).long(),
    torch.from_numpy(vx.reshape(len(vx), -1)), torch.from_numpy(vy).long(),
  )  # fmt: skip
  if not settings['threads']:
    trial = lambda: train(data, settings, seed=0, steps=settings['every'], evaluated=True)
    torch.set_num_threads(fastest_threads(trial))
  threads = torch.get_num_threads()
  print(json.dumps(dict(about=f'torch {torch.__version__}, threads: {threads}')), flush=True)
  for line in sys.stdin:
    job = json.loads(line)
    began = time.perf_counter()
    losses = [train(data, settings, s, job['steps'], job['evaluated']) for s in job['seeds']]
    reply = dict(seconds=time.perf_counter() - began, validation_loss=losses)
    print(json.dumps(reply), flush=True)


if __name__ == '__main__':
  main()
