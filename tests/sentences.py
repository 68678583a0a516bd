"""Sentences with labels, and a tiny pretrained BERT with its tokenizer, in their folders."""

import json

import numpy as np
from safetensors.numpy import save_file

WORDS = ('a', 'the', 'film', 'plot', 'was', 'is', 'and', 'very', 'not', 'good', 'bad')
SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]')
CONFIG = dict(
  model_type='bert', num_hidden_layers=2, hidden_size=24, num_attention_heads=3,
  intermediate_size=40, vocab_size=50, max_position_embeddings=64, type_vocab_size=2,
  hidden_act='gelu', layer_norm_eps=1e-12,
)  # fmt: skip


def write(root):
  """Fills a data directory: sst2/*.tsv, ade-corpus-v2/ and a model that is no MiniLM."""
  random = np.random.default_rng(0)
  (root / 'sst2').mkdir()
  for part, count in ('train', 120), ('dev', 40), ('test', 50):
    lines = []
    for i in range(count):
      label = i % 2
      words = [*random.choice(WORDS[:9], 6), ('bad', 'good')[label], *random.choice(WORDS[:9], 3)]
      lines.append(f'{" ".join(words)}\t{label}\n')
    (root / 'sst2' / f'sst2_{part}.tsv').write_text(''.join(lines))
  cases(root / 'ade-corpus-v2')
  ratings(root / 'ml-latest-small')
  folder = model(root / 'all-MiniLM-L6-v2')
  (folder / 'tokenizer.json').write_text(tokenizer().to_str())


def cases(folder, documents=20, each=4):
  """The two files of the ADE corpus: half of each document's sentences are bad."""
  random = np.random.default_rng(0)
  files = {'DRUG-AE.rel': [], 'ADE-NEG.txt': []}
  for i in range(documents * each):
    label, words = i % 2, [*random.choice(WORDS[:9], 9)]
    text = ' '.join([*words, ('good', 'bad')[label]])
    number = 1_000 + i // each
    if label:
      files['DRUG-AE.rel'].append(f'{number}|{text}|bad|0|3|plot|5|9\n')
    else:
      files['ADE-NEG.txt'].append(f'{number} NEG {text}\n')
  folder.mkdir()
  for name, lines in files.items():
    (folder / name).write_text(''.join(lines))


def ratings(folder, users=12, films=30, each=6):
  """MovieLens' two files, of made-up films."""
  random = np.random.default_rng(0)
  named = lambda: ' '.join(random.choice(WORDS, 3))
  titles = [f'{i},"{named()}, the film (1990)",Drama' for i in range(films)]
  lines = [
    f'{user},{film},{(5, 4.5, 2)[i % 3]},{1_000 + i}'
    for user in range(users) for i, film in enumerate(random.permutation(films)[:each])
  ]
  folder.mkdir()
  (folder / 'movies.csv').write_text('\n'.join(['movieId,title,genres', *titles]) + '\n')
  (folder / 'ratings.csv').write_text('\n'.join(['userId,movieId,rating,timestamp', *lines]) + '\n')


def tokenizer():
  """Words by number, 50 in all, between [CLS] and [SEP]."""
  import tokenizers
  from tokenizers import models, pre_tokenizers, processors

  words = [*SPECIAL, *WORDS, *(f'[unused{i}]' for i in range(50 - len(SPECIAL) - len(WORDS)))]
  made = tokenizers.Tokenizer(
    models.WordLevel({word: i for i, word in enumerate(words)}, unk_token='[UNK]')
  )
  made.pre_tokenizer = pre_tokenizers.Whitespace()
  made.post_processor = processors.TemplateProcessing(
    single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
  )
  return made


def model(folder, prefix='bert.'):
  """A model folder of random weights under Hugging Face's names, a classifier of four with them."""
  random = np.random.default_rng(0)
  d, inner = CONFIG['hidden_size'], CONFIG['intermediate_size']
  embeddings = dict(word=CONFIG['vocab_size'], position=CONFIG['max_position_embeddings'])
  shapes = {'pooler.dense.weight': (d, d), 'pooler.dense.bias': (d,)}
  for name, count in dict(embeddings, token_type=2).items():
    shapes[f'embeddings.{name}_embeddings.weight'] = (count, d)
  norms = ['embeddings.LayerNorm']
  for i in range(CONFIG['num_hidden_layers']):
    at = f'encoder.layer.{i}'
    linear = {f'attention.self.{name}': (d, d) for name in ('query', 'key', 'value')}
    linear |= {'attention.output.dense': (d, d)}
    linear |= {'intermediate.dense': (inner, d), 'output.dense': (d, inner)}
    for name, (rows, columns) in linear.items():
      shapes[f'{at}.{name}.weight'], shapes[f'{at}.{name}.bias'] = (rows, columns), (rows,)
    norms += [f'{at}.attention.output.LayerNorm', f'{at}.output.LayerNorm']
  for name in norms:
    shapes[f'{name}.weight'] = shapes[f'{name}.bias'] = (d,)
  made = {prefix + n: 0.5 * random.standard_normal(s, np.float32) for n, s in shapes.items()}
  made |= {
    'classifier.weight': random.standard_normal((4, d), np.float32),
    'classifier.bias': random.standard_normal(4).astype(np.float32),
    prefix + 'embeddings.position_ids': np.arange(CONFIG['max_position_embeddings'])[None],
  }
  folder.mkdir(parents=True, exist_ok=True)
  save_file(made, folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps(CONFIG))
  return folder
