"""Files of the data directory: trained int8 models, and the MCUNet zoo's descriptions."""

TRAINED = dict(
  in3='mcunet/mcunet-320kb-1mb_imagenet.tflite', te_vww='tinyml/te_vww.tflite',
  vww_96='tinyml/vww_96_int8.tflite', ic_resnet='tinyml/ic_resnet_int8.tflite',
  te_lenet='tinyml/te_ptq_mnist_lenet-300-100.tflite',
)  # fmt: skip
LABELS = dict(
  in3='MCUNet 320 KB, ImageNet (in3)', te_vww='MCUNet, visual wake words (te_vww)',
  vww_96='MLPerf Tiny, visual wake words', ic_resnet='MLPerf Tiny, ResNet on CIFAR-10',
  te_lenet='LeNet-300-100',
)  # fmt: skip
# name -> file, resolution
ZOO = dict(
  mbv2=('mbv2-w0.35-r144_imagenet.json', 144),
  proxyless=('proxyless-w0.3-r176_imagenet.json', 176), in0=('mcunet-10fps_imagenet.json', 48),
  in1=('mcunet-5fps_imagenet.json', 96), in2=('mcunet-256kb-1mb_imagenet.json', 160),
  in3=('mcunet-320kb-1mb_imagenet.json', 176), in4=('mcunet-512kb-2mb_imagenet.json', 160),
)  # fmt: skip


def column(heading: str, labels: dict, **cells: str):
  """A column of a table that papers fill: (heading, ((line, text), ...))."""
  return heading, tuple((labels[name], text) for name, text in cells.items())
