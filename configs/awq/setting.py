"""What the quantization of language models is compared on, in all configs here: one protocol."""

from configs.awq.llm import METHODS as CALIBRATED

MODELS = dict(
  smollm2=dict(path='smollm2', group=64, groups=('tensor', 'channel', 192, 64)),
  stories=dict(path='stories260k', group=32, groups=('tensor', 'channel', 32, 16)),
)
TITLES = dict(smollm2='SmolLM2-135M-Instruct', stories='stories260K')
METHODS = dict(CALIBRATED, gptq_r=dict(CALIBRATED['gptq'], rounding='ordered'))
# scales are judged by the linears' own outputs, on all tokens
METHODS = {name: dict(how, tokens=0) for name, how in METHODS.items()}
STEPS, BATCH = dict(stories=100, smollm2=32), dict(stories=8, smollm2=4)  # all text 12 times, once
RATES = dict(stories=1e-3, smollm2=2e-5)
NAMES = dict(
  net=dict(
    float='float', rtn='RTN', gptq='GPTQ', gptq_r='GPTQ-R', awq='AWQ', both='AWQ, then GPTQ',
    naive='as they are', smooth='SmoothQuant', qat='QAT', lsq='LSQ', activation='by activation',
    weight='by weight', random='at random',
  ),
  bits='INT{}',
  group=dict(tensor='per tensor', channel='per channel')
  | {str(group): f'groups of {group}' for group in (16, 32, 64, 128, 192)},
  activations=dict(token='inputs by token', tensor='inputs by tensor'),
  kept='{} %',
  scaled='times {}',
  divergence='divergence (nats a token)',
  changed='groups whose step changed',
  growth='steps, times as large',
  output_error='relative output error',
)  # fmt: skip


def model(variants: set[str]) -> str:
  """'stories' or 'smollm2', by the variants."""
  return 'stories' if 'stories' in variants else 'smollm2'


def text(name: str, passages: int | None, *, quick: bool = False) -> dict:
  """The texts: calibrated on Shakespeare, measured on the first passages of WikiText-2.

  passages: None for all. The little model is given shorter ones, for it has 512 places, and half of
  that fills its attention.
  """
  length, examples = (256, 64) if name == 'stories' else (512, 128)
  return dict(
    name='passages',
    calibration='tinyshakespeare',
    test='wikitext-2',
    examples=4 if quick else examples,
    length=length,
    test_passages=4 if quick else passages,
  )


def methods(*names: str, model: str = 'smollm2', quick: bool = False) -> dict:
  """name -> the stage of each method, of METHODS or 'qat', for a model of MODELS."""
  of = lambda name: qat(model, quick) if name == 'qat' else dict(METHODS[name], stage='awq')
  return {name: of(name) for name in names}


def qat(model: str, quick: bool) -> dict:
  """Training in few bits to say what the model says in floats."""
  steps = 2 if quick else STEPS[model]
  return dict(
    stage='qat', targets='own', steps=steps, every=steps // 2, batch=2 if quick else BATCH[model],
    optimizer=dict(name='adam', learning_rate=RATES[model], cosine=steps),
  )  # fmt: skip


def table(title: str, values, **spec) -> dict:
  """A table of cells in a config's `tables`."""
  return dict(spec, title=title, kind='cell', values=values, names=NAMES)
