"""A language model in the terminal: python -m launch.chat --model=FOLDER

Ctrl-C stops an answer; /reset forgets the conversation, /stats tells how fast the last answer was,
/exit or Ctrl-D ends. --prompt answers once.
"""

import contextlib
import signal
import sys

from absl import flags

from launch import cli

FLAGS = flags.FLAGS
cli.define('data_dir', 'platform')
flags.DEFINE_string('model', None, 'A model folder, a .gguf or a llama2.c file.')
flags.DEFINE_string('prompt', None, 'Answer this and leave.')
flags.DEFINE_string('system', '', 'What the model is told before the conversation.')
flags.DEFINE_float('temperature', 0.0, 'Of the draw; 0 takes the likeliest token.')
flags.DEFINE_integer('top_k', 0, 'Draw from so many likeliest tokens; 0: from all.')
flags.DEFINE_float('top_p', 1.0, 'Draw from the fewest tokens whose probabilities reach this.')
flags.DEFINE_float('repetition', 1.0, 'Divide the logits of tokens that were there before.')
flags.DEFINE_integer('seed', 0, 'Of the draws.')
flags.DEFINE_integer('tokens', 512, 'The most tokens of an answer.')
flags.DEFINE_integer('context', None, "The most tokens of a conversation; default: the model's.")
flags.DEFINE_string('floats', None, 'Of what is not packed: float32 (a CPU), bfloat16 (others).')
flags.DEFINE_string('memory', None, 'How keys and values are kept: as --floats, or int8.')
flags.DEFINE_integer('head', None, 'Bits of words and last layer; 8 pays on a CPU. Default: as is.')
flags.DEFINE_integer('inputs', 16, 'Bits of what packed layers multiply on a CPU: 16 or 8.')
flags.DEFINE_multi_string('stop', [], 'A string that ends an answer; may be given several times.')
TRIED = 'The quick brown fox jumps over the lazy dog, and then it goes home.'
COMMANDS = '/reset', '/stats', '/exit'
GREETING = '/reset forgets, /stats tells the pace, /exit ends; Ctrl-C stops an answer'


def conversation():
  """The conversation of the flags; every wrong value raises UsageError here."""
  from launch import preflight
  from reduction.chat.conversation import Conversation
  from reduction.chat.manners import manners
  from reduction.chat.runtime import Runtime
  from reduction.chat.sampling import Sampling
  from reduction.errors import require
  from reduction.opened import language_model

  require(FLAGS.model, '--model is needed: a model folder, a .gguf or a llama2.c file')
  require(FLAGS.tokens > 0, f'--tokens={FLAGS.tokens} must be above 0')
  require(0 <= FLAGS.seed < 2**32, f'--seed={FLAGS.seed} must lie in [0, 2^32)')
  require(all(FLAGS.stop), '--stop= is empty and would end every answer; leave it out')
  how = Sampling(FLAGS.temperature, FLAGS.top_k, FLAGS.top_p, FLAGS.repetition)
  how.check()
  found = language_model(FLAGS.model, FLAGS.data_dir)
  speaks = manners(found.files(), found.config)
  require(FLAGS.inputs in (8, 16), f'--inputs={FLAGS.inputs} must be 16 or 8')
  room(found.net, FLAGS.context, FLAGS.memory or FLAGS.floats or 'float32', preflight.memory())
  runtime = Runtime(
    found.net, context=FLAGS.context, stored=FLAGS.memory, head=FLAGS.head, floats=FLAGS.floats
  )
  if FLAGS.inputs == 8:
    change = runtime.round_inputs(found.encode(TRIED)[: runtime.context - 1])
    print(f'inputs in 8 bits change logits by {change:.1%}', file=sys.stderr)
  return Conversation(
    runtime, speaks, found.encode, found.decode, how=how, seed=FLAGS.seed, most=FLAGS.tokens,
    stops=tuple(FLAGS.stop), system=FLAGS.system,
  )  # fmt: skip


def room(net, context: int | None, stored: str, there: int | None):
  """Raises UsageError where a model and its memory take more bytes than are there, if known."""
  import jax

  from reduction.errors import require
  from reduction.models import memory

  tokens = net.module.positions if context is None else max(1, context)
  kept = jax.eval_shape(lambda: memory.empty(net.module, 1, tokens, stored))
  needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((net.params, kept)))
  less = ['a smaller --context', *(['--memory=int8'] if stored != 'int8' else [])]
  require(
    there is None or needed < there,
    f'the model and {tokens:,} tokens take {needed / 1e9:.1f} GB, and {(there or 0) / 1e9:.1f} are '
    f'there; {" or ".join(less)} takes less, or name a packed model',
  )  # fmt: skip


def main(argv):
  """Talks until the person leaves, or answers once."""
  del argv
  cli.set_platform(FLAGS.platform)
  talk = conversation()
  if FLAGS.prompt is not None:
    say(talk, FLAGS.prompt)
    return
  with contextlib.suppress(ImportError):
    import readline  # lines can be edited and called back

    readline.set_history_length(1000)
  if sys.stdin.isatty():
    print(GREETING)
  converse(talk, _lines())


def converse(talk, lines):
  """Answers each line, or does what it commands; an error is one line and the talk goes on."""
  from reduction.chat.speed import told
  from reduction.errors import UserError

  for line in lines:
    if line == '/exit':
      return
    if line == '/reset':
      talk.reset()
      print('forgotten')
    elif line == '/stats':
      print(told(talk.runtime))
    elif line.startswith('/'):
      print(f'{line.split()[0]} is none of {", ".join(COMMANDS)}')
    elif line:
      try:
        say(talk, line)
      except UserError as error:
        print(f'error: {error}')


def _lines():
  """What the person types; an interrupted line is given up."""
  while True:
    try:
      yield input('> ' if sys.stdin.isatty() else '').strip()
    except KeyboardInterrupt:
      print()
    except EOFError:
      if sys.stdin.isatty():
        print()
      return


def say(talk, said):
  """Prints an answer as it comes; Ctrl-C stops it, and the reading of what was said."""
  stopped = []
  before = signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
  try:
    for piece in talk.answer(said, stop=lambda: bool(stopped)):
      print(piece, end='', flush=True)
  finally:
    signal.signal(signal.SIGINT, before)
  print()


if __name__ == '__main__':
  try:
    cli.run(main)
  except KeyboardInterrupt:  # while the model is read
    sys.exit(130)
