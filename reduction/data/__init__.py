"""Data sets by name: `mnist(validation=5_000)` finds the images, checks them and splits them."""

from reduction.data.ade import ade
from reduction.data.data import Data, Split, digest
from reduction.data.faces import fddb
from reduction.data.images import cifar10, digits, fashion_mnist, mnist
from reduction.data.items import films, mind
from reduction.data.passages import Passages, passages
from reduction.data.speech import spoken_digits, spoken_words
from reduction.data.text import sst2
from reduction.data.wake import visual_wake_words

__all__ = [
  'Data', 'Passages', 'Split', 'ade', 'cifar10', 'digest', 'digits', 'fashion_mnist', 'fddb',
  'films', 'mind', 'mnist', 'passages', 'spoken_digits', 'spoken_words', 'sst2',
  'visual_wake_words',
]  # fmt: skip
