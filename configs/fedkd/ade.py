"""FedKD on adverse drug events: four clients, a BERT of six layers each, shared students of 4 or 2.

Wu et al. 2022, table 3 (SMM4H, tweets; UniLM of 12 layers, 4 clients). Expected, F and GB a client:
UniLM by FedAvg 60.6 at 1.37; FedKD with four layers 60.7 at 0.12, with two 59.8 at 0.07, of which a
third to a quarter is the share that low-rank updates keep. The corpus here asks the same of
sentences of case reports, so numbers do not compare; the order of methods and the ratio of bytes
do. Table 1: 20,896 sentences of 2,972 documents, 17.8 words each, 20.4 % with an event (SMM4H:
16,694 tweets, 8.1 %).

    python -m launch.run --config=configs/fedkd/ade.py --workdir=runs/fedkd-ade
    python -m launch.run --config=configs/fedkd/ade.py:two --workdir=runs/fedkd-ade-two
    python -m launch.run --config=configs/fedkd/ade.py:methods --workdir=runs/fedkd-ade-methods
    python -m launch.run --config=configs/fedkd/ade.py:distilled --workdir=runs/fedkd-ade-distilled
    python -m launch.run --config=configs/fedkd/ade.py:small,longer --workdir=runs/fedkd-ade-longer

The teacher starts from all-MiniLM-L6-v2 (6 layers of 384; where to get it is said where it is
missing), students from its first layers; embeddings are neither trained nor sent, as in the
authors' code. Documents are dealt to clients whole. Not run in full: it takes hours on two cores.
FedKD and what it is made of stand beside FedAvg of both nets. Variants: 'methods' are the others of
the tables, from FedProx to FedMD, students alone and on all data; 'two' layers; 'small', for a CPU:
the teacher's first four layers and students of two, 40 tokens, four rounds of a quarter of each
client's sentences, and learning rates chosen for that on validation sentences (AdamW's of 1, 2, 4
and 8 e-4 for FedAvg, of 2, 4 and 8 e-4 for FedKD; SCAFFOLD's of 0.1 and 0.3);
'random' begins with random models, embeddings too; 'codecs' is FedAvg that sends less, FedDropout,
FetchSGD, PowerSGD and in 8 bits; 'distilled' is FedAvg of the students that
configs/distill/bert.py:four left in runs/bert-four (with 'small' bert.py in runs/bert), the rows
DistilBERT, BERT-PKD and TinyBERT; 'longer', with 'small', is FedAvg and FedKD alone over four
passes, with 'fixed' FedKD that is not adaptive; 'fresh', with 'small', is FedAvg, FedKD, and FedKD
whose clients' optimizers begin anew each round; 'gentle', with 'small', is FedKD alone, not
adaptive, that learns a tenth as much from the other net (of 0.1 and 0.3 the lower loss of
validation sentences, seed 0); 'paired', with 'small', compares nets of other runs over seeds and
sentences, which PAIRS names; 'quick' is a teacher of two layers and its student of one, two
clients, two rounds of a few steps.
"""

from ml_collections import config_dict

from configs.fedkd import setting
from configs.variants import split

MODEL = 'all-MiniLM-L6-v2'
SIZES = dict(name='bert', width=384, heads=12, inner=1_536, vocabulary=30_522, positions=512)
CLIENTS, ROUNDS, BATCH = 4, 5, 32
PARTS = dict(  # FedKD without one each -> what
  alone='distillation', without_hidden='hidden layers', fixed='adaptive weights',
)  # fmt: skip
SHOWN = ('large', 'fedavg', 'fedkd', 'whole', *PARTS)
BASES = ('large', 'fedavg', *PARTS)  # what FedKD is compared with
GENTLE = 0.1  # of the lesson
DISTILLED = ('distilbert', 'pkd', 'tinybert')  # stages of runs/bert-four
OTHERS = {  # claim -> (what, the stage, the one it is compared with), not in the paper
  '10': ('FedKD, not adaptive, against FedAvg of the same student', 'fixed', 'fedavg'),
  '11': ('FedKD, optimizers anew each round, against on and on', 'fresh', 'fedkd'),
  '12': ('FedKD, optimizers anew, against FedAvg of the same student', 'fresh', 'fedavg'),
  '13': ('FedKD, gentle, against FedAvg of the same student', 'gentle', 'fedavg'),
}
KEYS = {  # letter after a claim -> (what, the key of a 'versus')
  '': ('F', 'f1_gain'),
  'b': ('F, from a threshold of validation sentences on,', 'tuned_f1_gain'),
  'c': ('AUC', 'auc_gain'),
}
FEW = dict(  # variant -> (the stages after the first, claims); what is named first goes first
  fresh=(('fedavg', 'fedkd', 'fresh', 'fresh_over_fedkd', 'fresh_over_fedavg'), ('11', '12')),
  gentle=(('gentle',), ()),
  fixed=(('fedavg', 'fixed', 'fixed_over_fedavg'), ('10', '10d', '10e')),
  longer=(('fedavg', 'fedkd', 'over_fedavg'), ('2', '4', '4b')),
)
PAIRS = {  # beside 'small,paired' -> (runs/NAME-seed of FedKD, of FedAvg, seeds, stages, claims)
  (): ('fedkd-ade-small', 'fedkd-ade-small', (0, 1),
       (*(f'over_{base}' for base in BASES), 'fixed_over_fedavg'), ('1', '2', '7', '8', '9', '10')),
  ('fixed',): ('fedkd-ade-small', 'fedkd-ade-small', (2, 3, 4),
               ('fixed_over_fedavg',), ('10', '10b', '10c')),
  ('gentle',): ('fedkd-ade-gentle', 'fedkd-ade-small', (2, 3, 4),
                ('gentle_over_fedavg',), ('13', '13b', '13c')),
  ('fixed', 'longer'): ('fedkd-ade-longer-fixed', 'fedkd-ade-longer-fixed', (1, 2),
                        ('fixed_over_fedavg',), ('10', '10b', '10c')),
}  # fmt: skip
VARIANTS = (
  'two', 'methods', 'small', 'random', 'codecs', 'distilled', 'longer', 'fixed', 'fresh', 'gentle',
  'paired', 'quick',
)  # fmt: skip


def get_config(variant: str = ''):
  """variant: of VARIANTS, joined by commas."""
  chosen = split(variant, VARIANTS)
  quick, small = 'quick' in chosen, 'small' in chosen
  layers = 1 if quick else 2 if chosen & {'two', 'small'} else 4
  c = config_dict.ConfigDict()
  c.title = f'FedKD with a student of {layers} layers: adverse drug events'
  c.seeds = (0,)
  c.data = dict(name='ade', tokenizer=MODEL, length=40 if small else 48)
  c.model = dict(SIZES, layers=2 if quick else 4 if small else 6)
  federation = dict(
    rounds=2 if quick else ROUNDS, batch=4 if quick else BATCH, epochs=0.02 if quick else 1,
    partition=dict(name='natural', clients=2 if quick else CLIENTS), codec=setting.DENSE,
    disk=not quick, group=0 if quick else 1,
  )  # fmt: skip
  if small:
    federation.update(rounds=16 if 'longer' in chosen else 4, epochs=0.25)
  parts = stages(federation, dict(SIZES, layers=layers), c.model.layers, 4e-4 if small else 5e-5)
  parts['pretrained'] = dict(path=MODEL)
  parts |= {f'over_{base}': dict(stage='versus', of='fedkd', base=base) for base in BASES}
  parts |= {
    f'{of}_over_{base}': dict(stage='versus', of=of, base=base) for _, of, base in OTHERS.values()
  }
  last = tuple(f'over_{base}' for base in BASES)
  c.stages = ('pretrained', 'fedkd') if quick else ('pretrained', *SHOWN, *last)
  if 'methods' in chosen:
    c.stages = ('pretrained', *(name for name in setting.ALL if name not in SHOWN))
  if 'codecs' in chosen:
    c.stages = ('pretrained', *setting.CODECS)
  if 'random' in chosen:
    c.stages = c.stages[1:]
    for part in parts.values():
      begins(part, 'start')
  if 'distilled' in chosen:
    c.stages = DISTILLED
    came = 'runs/bert-four' if layers == 4 else 'runs/bert'
    c.seeds = (0, 1, 2)  # as the students have
    given = dict(parts['fedavg'], student=dict(SIZES, layers=layers))
    parts |= {n: dict(given, inherits=dict(of=f'{came}:{n}', fresh=())) for n in DISTILLED}
  few = next((FEW[name] for name in FEW if name in chosen), None)
  if few:
    c.stages = 'pretrained', *few[0]
  if 'paired' in chosen:
    c.seeds, compared, known = paired(chosen, parts)
    c.stages = tuple(compared)
    parts |= compared
  for name in c.stages:
    c[name] = parts[name]
  if not chosen & {'quick', 'methods', 'codecs', 'distilled'}:
    said = paper(layers)
    if 'paired' not in chosen:
      known = few[1] if few else tuple(n for n in said if n.rstrip('bcde') not in OTHERS)
    c.paper = {n: said[n] for n in known}
  scores = 'test_f1', 'test_precision', 'test_recall', 'test_auc', 'teacher_f1', 'teacher_auc'
  c.tables = setting.tables(*scores)
  return c


def stages(given: dict, student: dict, deep: int, rate: float) -> dict:
  """Name -> settings of each stage; deep: layers of the teacher; rate: of clients' AdamW."""
  adam = dict(name='adamw', learning_rate=rate, weight_decay=0.01)
  pairs = []
  for i in range(student['layers']):  # from the top, evenly
    theirs = deep - 1 - (student['layers'] - 1 - i) * (deep // student['layers'])
    pairs += [
      dict(student=f'layer{i}/states', teacher=f'layer{theirs}/states'),
      dict(student=f'layer{i}/attention/scores', teacher=f'layer{theirs}/attention/scores',
           kind='attention'),
    ]  # fmt: skip
  parts = setting.methods(given, dict(student, layers=deep), student, tuple(pairs), adam)
  first = dict(inherits=dict(of='pretrained'), frozen='embeddings')
  for name, part in parts.items():
    part.update(first)
    if name != 'large' and part['stage'] == 'fedkd':
      part.update(teachers=(), begins='pretrained')
  parts['gentle'] = dict(parts['fixed'], lesson=dict(parts['fixed']['lesson'], weight=GENTLE))
  parts['fedmd']['public'] = 1_024
  # a quarter of the bytes up, as in the paper: a layer is 1.77 M weights
  sketch = dict(rows=5, columns=90_000 * student['layers'], top=50_000 * student['layers'])
  parts['fetchsgd']['federation']['codec'].update(sketch)
  parts['fedopt']['server_optimizer'] = dict(name='adam', learning_rate=1e-3, b2=0.99)
  return parts


def paired(chosen, parts: dict) -> tuple:
  """(seeds, name -> what compares nets of other runs, claims), as PAIRS has it."""
  beside = tuple(name for name in ('fixed', 'gentle', 'longer') if name in chosen)
  if beside not in PAIRS:
    known = (','.join(('small', 'paired', *names)) for names in PAIRS)
    raise ValueError(f'{",".join(sorted(chosen))!r} compares nothing: there are {"; ".join(known)}')
  *runs, seeds, names, claims = PAIRS[beside]
  found = {}
  for name in names:
    nets = zip(runs, (parts[name]['of'], parts[name]['base']))
    of, base = (tuple(f'runs/{run}-{seed}:{net}' for seed in seeds) for run, net in nets)
    found[name] = dict(parts[name], of=of, base=base)
  return seeds, found, claims


def begins(part: dict, first: str):
  """Lets a stage begin with random models, of which embeddings are trained and sent too."""
  for key in {'inherits', 'frozen'} & set(part):
    del part[key]
  if 'begins' in part:
    part['begins'] = first


def paper(layers: int) -> dict:
  """What table 3 says: F, and bytes = share of layers x share of low-rank updates x transfers."""
  f1 = lambda base, of='': dict(kind='versus', at=f'{of}over_{base}', key='f1_gain',
                                how='bootstrap')  # fmt: skip
  sent = lambda key, of, to: dict(kind='federated', at=of, key=key, how='ratio',
                                  against=dict(at=to))  # fmt: skip
  four = layers == 4
  claim = lambda text, said, measure: dict(claim=text, paper=said, measure=measure,
                                           why='it takes hours')  # fmt: skip
  saved = ('0.12 / 0.46 = 0.26' if four else '0.07 / 0.24 = 0.30') + ', both ways'
  both, same = ('0.09' if four else '0.05') + ', both ways', ('fedkd', 'fedavg')
  large = '+0.1, 60.7 against 60.6' if four else '-0.8, 59.8 against 60.6'
  return {
    '1': claim('F of FedKD, against FedAvg of the large model', large, f1('large')),
    '2': claim('F of FedKD, against FedAvg of the same student', 'not in the paper', f1('fedavg')),
    '3': claim('bytes of the student, of the large model, either way',
               '0.46 / 1.37 = 0.34' if four else '0.24 / 1.37 = 0.17',
               sent('up_bytes', 'fedavg', 'large')),
    '4': claim('times low-rank updates up, of whole ones', saved, sent('up_bytes', *same)),
    '4b': claim('times low-rank updates down, of whole ones', saved, sent('down_bytes', *same)),
    '5': claim('times rounds, of a transfer up and one down', '2',
               dict(kind='federated', at='fedkd', key='rounds', how='value')),
    '6': claim('bytes up of FedKD, of FedAvg of the large model', both,
               sent('up_bytes', 'fedkd', 'large')),
    '6b': claim('bytes down of FedKD, of FedAvg of the large model', both,
                sent('down_bytes', 'fedkd', 'large')),
    **{
      str(7 + i): claim(f'F by {what}, against FedKD without', '+', f1(part))
      for i, (part, what) in enumerate(PARTS.items())
    },
    **{
      n + letter: claim(f'{score} of {what}', 'not in the paper', dict(f1(base, f'{of}_'), key=key))
      for n, (what, of, base) in OTHERS.items() for letter, (score, key) in KEYS.items()
    },
    '10d': claim('bytes up of FedKD, not adaptive, of FedAvg of the same student',
                 'not in the paper', sent('up_bytes', 'fixed', 'fedavg')),
    '10e': claim('its bytes down', 'not in the paper', sent('down_bytes', 'fixed', 'fedavg')),
  }  # fmt: skip


def sweep():
  """Students of four and of two layers, what sends less, and random models, a line a seed."""
  for variant in '', 'methods', 'two', 'codecs', 'random':
    for seed in range(3):
      yield {'variant': variant, 'seeds': (seed,)}
