"""What is exact of the MCUNet zoo without training, and how papers come to count it.

Lin et al., MCUNet, NeurIPS 2020. Expected, to the printed digit: multiply-accumulates and
parameters of the seven rows that the authors' README has and whose architecture is public;
TinyEngine's memory by its own account (49, 96, 215, 260, 416 and 259 KiB). Then the table of the
authors' lectures (ResNet-18, MobileNetV2 of width 0.75, MCUNet) and their chart of nets against
320 KB, whose numbers are reproduced by no single way of counting: each is named. Seconds.

    python -m launch.bench --config=configs/mcu/zoo.py --out=configs/mcu/results/zoo.jsonl

Needs the architectures in the data directory; third_party/README.md says where from. Variant
'quick': one net.
"""

from ml_collections import config_dict

from configs.mcu.models import ZOO, column
from configs.variants import split

LABELS = dict(mbv2='MobileNetV2, w0.35, r144', proxyless='ProxylessNAS, w0.3, r176', in0='in0, r48',
              in1='in1, r96', in2='in2, r160', in3='in3, r176', in4='in4, r160')  # fmt: skip
NETS = dict(
  resnet18='ResNet-18', resnet50='ResNet-50', mobilenet75='MobileNetV2, w0.75',
  mobilenet100='MobileNetV2, w1.0', in4='MCUNet in4', int4='MCUNet of 4 bits, r192',
)  # fmt: skip
LECTURES = 'ResNet-18, int8', 'MobileNetV2, w0.75, int8', 'MCUNet in4, int8'


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'The MCUNet zoo, exactly'
  c.benches = ('architectures', 'accounted')
  c.architectures = dict(files=dict(in0=ZOO['in0']) if quick else ZOO)
  int4 = ('mcunet-512kb-2mb-int4_imagenet.json', 192, 4)
  c.accounted = dict(files={} if quick else dict(in4=(*ZOO['in4'], 8), int4=int4))
  c.tables = dict(a=architectures(), b=slides(), c=chart())
  return c


def architectures():
  """Beside the READMEs of mcunet and of tinyengine."""
  return dict(
    title='Without training', kind='architecture', rows='model',
    values=('macs_m', 'parameters_m', 'tinyengine_kib', 'arena', 'lower_bound', 'smaller'),
    names=dict(
      model=LABELS, macs_m='M multiply-adds', parameters_m='M parameters',
      tinyengine_kib="TinyEngine's account, KiB", arena='our arena, B',
      lower_bound='no schedule of whole tensors, B', smaller='against TinyEngine (%)',
    ),
    where=dict(model=tuple(LABELS)),
    paper=(
      column('README: M multiply-adds', LABELS, mbv2='23.5', proxyless='38.3', in0='6.4',
             in1='12.8', in2='67.3', in3='81.8', in4='125.9'),
      column('README: M parameters', LABELS, mbv2='0.75', proxyless='0.75', in0='0.75', in1='0.64',
             in2='0.73', in3='0.74', in4='1.73'),
      column('README: SRAM, kB', LABELS, proxyless='259', in0='49', in1='96', in2='215',
             in3='260', in4='416'),
    ),
    note='Scratch is part of our arena. The lower bound holds whole tensors, op by op.',
  )  # fmt: skip


def slides():
  """The lectures' table: 11.2 / 0.9, 2.5 / 1.7, 1.9 / 0.5."""
  return dict(
    title='One table, five accounts', kind='account', rows=('model', 'stored'),
    values=('weights_mb', 'weights_mib', 'in_out_mb', 'held_mb', 'blocks_mb'),
    names=dict(
      model=NETS, weights_mb='weights, MB', weights_mib='weights and int32 biases, MiB',
      in_out_mb="a layer's in and out, MB", held_mb='and what shortcuts hold, MB',
      blocks_mb='and the input of every block, MB',
    ),
    where=dict(model=('resnet18', 'mobilenet75', 'in4', 'int4'), stored=('int8', 'int4')),
    paper=(
      ('lectures: parameters, MB', tuple(zip(LECTURES, ('11.2', '2.5', '1.9')))),
      ('lectures: activations, MB', tuple(zip(LECTURES, ('0.9', '1.7', '0.5')))),
    ),
    note='No one account gives all six: 11.2 and 2.5 are MiB with biases; 1.9 is the Flash of in4 '
    'with its code (1,876 kB in the README, 1.83 MiB); 0.9 is 0.953 MB cut off, or 0.909 MiB; 1.7 '
    'holds the input of a strided block that nothing reads again; the accuracy beside 1.9 and 0.5 '
    'is that of the net of 4 bits.',
  )  # fmt: skip


def chart():
  """The lectures' chart of peak memory against 320 kB."""
  return dict(
    title='Against 320 kB', kind='account', rows=('model', 'stored'),
    values=('blocks', 'times'),
    names=dict(model=NETS, blocks='the most that is held, B', times='times 320,000 B'),
    where=dict(model=('resnet50', 'mobilenet75', 'mobilenet100', 'in4', 'int4'),
               stored=('float32', 'int8', 'int4')),
    paper=(('lectures: times', (('MobileNetV2, w0.75, int8', '5.3'),)),),
    note='With the input of every block held. MobileNetV2 has the same peak at widths 0.75 and 1: '
    'its first blocks round to the same channels.',
  )  # fmt: skip
