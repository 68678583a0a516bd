"""ResNet-20, MobileNetV2, Conv-2/4 as a PyTorch user trains them: peer of configs/bench/conv.py.

Needs torch alone. The first line of stdin holds the settings, each further line a job. Contiguous
and channels-last memory are tried, and the faster is kept.
"""

import json
import sys
import time

try:
  import torch
  from torch import nn
  from torch.nn import functional as F
except ModuleNotFoundError as error:
  print(json.dumps(dict(missing=error.name)), flush=True)
  sys.exit()


class Block(nn.Module):
  """Two convolutions and a shortcut."""

  def __init__(self, inputs, width, stride):
    super().__init__()
    conv = lambda i, size, stride: nn.Sequential(
      nn.Conv2d(i, width, size, stride, size // 2, bias=False), nn.BatchNorm2d(width)
    )
    self.first, self.second = conv(inputs, 3, stride), conv(width, 3, 1)
    self.shortcut = conv(inputs, 1, stride) if stride > 1 else nn.Identity()

  def forward(self, x):
    return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


def resnet20():
  """He et al. 2016, section 4.2."""
  layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
  inputs = 16
  for stage, width in enumerate((16, 32, 64)):
    for block in range(3):
      layers.append(Block(inputs, width, 2 if stage and not block else 1))
      inputs = width
  return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Bottleneck(nn.Module):
  """Sandler et al. 2018, figure 4."""

  def __init__(self, inputs, expansion, width, stride):
    super().__init__()
    middle = inputs * expansion
    conv = lambda i, o, size, stride, groups, *end: [
      nn.Conv2d(i, o, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(o), *end
    ]  # fmt: skip
    layers = conv(inputs, middle, 1, 1, 1, nn.ReLU6()) if expansion > 1 else []
    layers += conv(middle, middle, 3, stride, middle, nn.ReLU6()) + conv(middle, width, 1, 1, 1)
    self.layers, self.shortcut = nn.Sequential(*layers), stride == 1 and inputs == width

  def forward(self, x):
    return x + self.layers(x) if self.shortcut else self.layers(x)


def mobilenetv2():
  """Sandler et al. 2018, table 2; halves its images twice less, as they are of 32 pixels."""
  layers, inputs = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()], 32
  for expansion, width, count, stride in (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
  ):  # fmt: skip
    for block in range(count):
      layers.append(Bottleneck(inputs, expansion, width, 1 if block else stride))
      inputs = width
  layers += [nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
  return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10))


def convnet(depth):
  """Frankle & Carbin 2019, figure 2."""
  layers, inputs, size = [], 3, 32
  for pair in range(depth // 2):
    for _ in range(2):
      layers += [nn.Conv2d(inputs, 64 * 2**pair, 3, 1, 1), nn.ReLU()]
      inputs = 64 * 2**pair
    layers.append(nn.MaxPool2d(2))
    size //= 2
  layers.append(nn.Flatten())
  for i, o in ((inputs * size**2, 256), (256, 256)):
    layers += [nn.Linear(i, o), nn.ReLU()]
  return nn.Sequential(*layers, nn.Linear(256, 10))


NETWORKS = dict(
  resnet20=resnet20, mobilenetv2=mobilenetv2, conv2=lambda: convnet(2), conv4=lambda: convnet(4)
)
EXAMPLES = 1_024


def trainer(network, batch, memory):
  """go(steps) trains a fresh network on random images."""
  model = NETWORKS[network]().to(memory_format=memory)
  optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
  x = torch.rand(EXAMPLES, 3, 32, 32).contiguous(memory_format=memory)
  y = torch.randint(0, 10, (EXAMPLES,))

  def go(steps):
    for _ in range(steps):
      chosen = torch.randint(0, EXAMPLES, (batch,))
      optimizer.zero_grad()
      F.cross_entropy(model(x[chosen]), y[chosen]).backward()
      optimizer.step()

  return go


def seconds(go, steps):
  """How long steps take."""
  began = time.perf_counter()
  go(steps)
  return time.perf_counter() - began


def main():
  """Answers until stdin ends."""
  settings = json.loads(sys.stdin.readline())
  found = {}
  for memory in (torch.contiguous_format, torch.channels_last):
    go = trainer(settings['network'], settings['batch'], memory)
    go(2)
    found[memory] = min(seconds(go, 2) for _ in range(2)), go
  memory = min(found, key=lambda m: found[m][0])
  go = found[memory][1]
  print(json.dumps(dict(about=f'torch {torch.__version__}, {memory}')), flush=True)
  for line in sys.stdin:
    print(json.dumps(dict(seconds=seconds(go, json.loads(line)['steps']))), flush=True)


if __name__ == '__main__':
  main()
