"""Networks as functions of their settings; each returns a Flax Linen module."""

from reduction.models.bert import bert
from reduction.models.choice import choice
from reduction.models.convnet import convnet, vgg, vgg11, vgg19
from reduction.models.gpt import gpt
from reduction.models.llama import llama
from reduction.models.mlp import lenet, mlp
from reduction.models.mobile import mobilenetv2
from reduction.models.recommend import recommender
from reduction.models.resnet import resnet, resnet12
from reduction.models.yolo import yolo

__all__ = [
  'bert', 'choice', 'convnet', 'gpt', 'lenet', 'llama', 'mlp', 'mobilenetv2', 'recommender',
  'resnet', 'resnet12', 'vgg', 'vgg11', 'vgg19', 'yolo',
]  # fmt: skip
