"""A conversation in the terminal: what is shown, what is refused, what Ctrl-C stops."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from launch.chat import converse, room, say
from reduction import tree, written
from reduction.chat.conversation import Conversation
from reduction.chat.manners import manners
from reduction.chat.runtime import Runtime
from reduction.chat.sampling import Sampling
from reduction.errors import UsageError
from reduction.kernels import native
from reduction.models.served import Served
from reduction.net import Net
from reduction.opened import language_model
from reduction.qtensor import Scheme
from reduction.quantize.rtn import quantize
from tests import decoders
from tests.decoders import bytes_and_words


@pytest.fixture
def talk(decoder):
  found = language_model('tiny', decoder)
  return Conversation(
    Runtime(found.net), manners(found.files(), found.config), found.encode, found.decode,
    how=Sampling(), most=6,
  )  # fmt: skip


def test_one_prompt_is_answered(launch, decoder, talk):
  flags = '--model=tiny', f'--data_dir={decoder}', '--tokens=6'
  result = launch(*flags, '--prompt=the film was', module='launch.chat')
  assert result.code == 0, result.err
  assert result.out == ''.join(talk.answer('the film was')) + '\n' != '\n'


@pytest.mark.parametrize(
  'flags, code, line',
  [
    (['--prompt=a'], 2, '--model is needed'),
    (['--model=tinny', '--prompt=a'], 66, 'no model in tinny'),
    (['--model=tiny', '--prompt='], 2, 'the prompt is empty'),
    (['--model=tiny', '--prompt=' + 'a ' * 70], 2, 'the prompt has 70 tokens, the context 64'),
    (['--model=tiny', '--prompt=a', '--context=65'], 2, 'context=65 must be'),
    (
      ['--model=tiny', '--prompt=a', f'--context={10**11}'],
      2,
      'the model and 100,000,000,000 tokens take',
    ),
    (['--model=tiny', '--prompt=a', '--top_p=2'], 2, 'top_p=2.0 must be'),
    (['--model=tiny', '--prompt=a', '--memory=int4'], 2, "stored='int4' must be one of"),
    (['--model=tiny', '--prompt=a', '--tokens=0'], 2, '--tokens=0 must be above 0'),
    (['--model=tiny', '--prompt= '], 2, 'the prompt is empty'),
    (['--model=tiny', '--prompt=a', f'--seed={10**22}'], 2, 'must lie in [0, 2^32)'),
    (['--model=tiny', '--prompt=a', '--stop='], 2, '--stop= is empty'),
  ],
)
def test_what_is_wrong_is_one_line(launch, decoder, flags, code, line):
  result = launch(*flags, f'--data_dir={decoder}', module='launch.chat')
  assert result.code == code and result.out == ''
  assert len(result.lines) == 1 and line in result.lines[0]


def test_every_flag_reaches_the_conversation(decoder):
  from absl import flags
  from absl.testing import flagsaver

  import launch.chat

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(
    model='tiny', data_dir=str(decoder), stop=['one', 'two'], seed=7, temperature=0.5, top_k=3,
    top_p=0.9, repetition=1.2, system='Be brief.', tokens=9, context=40, memory='int8',
  ):  # fmt: skip
    talk = launch.chat.conversation()
  assert talk.how == Sampling(0.5, 3, 0.9, 1.2) and talk.stops == ('one', 'two')
  assert (talk.most, talk.system) == (9, 'Be brief.') and talk.key == jax.random.key(7)
  assert talk.runtime.context == 40
  kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(talk.runtime.memory)}
  assert 'int8' in kinds


def test_a_tokenizer_of_another_model_is_one_line(launch, decoder, tmp_path):
  shutil.copytree(decoder / 'tiny', tmp_path / 'other')
  (tmp_path / 'other/tokenizer.json').write_text(bytes_and_words().to_str())
  result = launch(f'--model={tmp_path}/other', '--prompt=It is 12', module='launch.chat')
  assert result.code == 65 and result.out == '', result.err
  assert len(result.lines) == 1 and 'is the tokenizer of another model?' in result.lines[0]


@pytest.mark.slow
@pytest.mark.skipif(not native.ready(), reason='no C++ compiler')
def test_inputs_in_8_bits_say_what_they_change(launch, tmp_path):
  config = decoders.CONFIG | dict(hidden_size=64, intermediate_size=128)
  found = language_model(decoders.model(tmp_path / 'whole', config))
  packed = tree.map_named(
    lambda path, w: quantize(np.asarray(w), Scheme(4, 64), dtype=np.float16)
    if path.startswith('layer') and path.endswith('kernel') else w, found.net.params,
  )  # fmt: skip
  (tmp_path / 'packed').mkdir()
  net = Net(Served(found.net.module), packed)
  form = written.Format('compressed-tensors')
  written.write(tmp_path / 'packed', net, found.config, found.files(), form)
  said = []
  for more in [], ['--inputs=8']:
    result = launch(f'--model={tmp_path}/packed', '--prompt=the film', '--tokens=4', *more,
                    module='launch.chat')  # fmt: skip
    assert result.code == 0, result.err
    said.append([line for line in result.lines if 'change logits by' in line])
  (line,) = said[1]
  assert said[0] == [] and line.startswith('inputs in 8 bits change logits by ')
  assert 0 < float(line.split()[-1].rstrip('%')) < 5


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('setsid'), reason='nothing gives a terminal of its own')
def test_a_person_at_a_terminal(decoder):
  """A greeting, an answer, a line called back by the arrow, Ctrl-C at the prompt, Ctrl-D."""
  master, slave = pty.openpty()
  chat = subprocess.Popen(
    # with a terminal of its own, whose keys are signals, which a job in the background ignores
    ['env', '--default-signal=INT', 'setsid', '--ctty', sys.executable, '-m', 'launch.chat',
     '--model=tiny', f'--data_dir={decoder}', '--tokens=6'],
    stdin=slave, stdout=slave, stderr=slave, env=os.environ | {'TERM': 'xterm'},
  )  # fmt: skip
  os.close(slave)
  shown = b''

  def until(text, since=0):
    nonlocal shown
    end = time.monotonic() + 120
    while text not in shown[since:]:
      assert time.monotonic() < end, shown
      if select.select([master], [], [], 0.1)[0]:
        shown += os.read(master, 4096)
    return shown.index(text, since) + len(text)

  def type_in(keys, since):
    """Types once the prompt is shown: before, the terminal holds lines, and makes Ctrl-D a NUL."""
    at = until(b'> ', since)
    os.write(master, keys)
    return at

  try:
    at = until(b'Ctrl-C stops an answer')
    at = type_in(b'the film was\n', at)
    at = until(b'\n', until(b'the film was', at))
    at = until(b'of 64 places', type_in(b'/stats\n', at))
    at = until(b'of 64 places', type_in(b'\x1b[A\n', at))  # the line before, again
    at = until(b'forgotten', type_in(b'/reset\n', at))
    at = until(b'half a line', type_in(b'half a line', at))
    time.sleep(1)  # Python sleeps over a signal that comes before it waits for the next key
    os.write(master, b'\x03')
    at = until(b'\n', at)  # is given up
    at = until(b'of 64 places', type_in(b'/stats\n', at))
    type_in(b'\x04', at)
    assert chat.wait(60) == 0
  finally:
    chat.kill()
    os.close(master)


def test_commands_and_errors_leave_the_conversation_going(talk, capsys):
  lines = ['/stats', '/help', 'the film', '/stats', '', 'a ' * 70, 'was', '/reset', 'the film']
  converse(talk, [*lines, '/exit', 'never asked'])
  shown = capsys.readouterr().out.splitlines()
  nothing, unknown, first, stats, wrong, second, forgotten, again = shown
  assert nothing == 'nothing was answered yet'
  assert unknown == '/help is none of /reset, /stats, /exit'
  assert stats.startswith('2 tokens read in ') and 'of 64 places are filled' in stats
  assert 0 < float(re.search(r'time to first token (\S+) s', stats)[1]) < 60
  assert wrong.startswith('error: the prompt has ') and 'the context 64' in wrong
  assert forgotten == 'forgotten' and again == first != second
  assert len(talk.messages) == 2


def test_no_room_is_one_line(decoder):
  net = language_model('tiny', decoder).net
  weights = 4 * (50 * 32 + 32 + 2 * (2 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48))
  kept = 4 * (2 * 2 * 128 * 2 * 8)  # layers, keys and values, places, heads, units
  room(net, None, 'float32', weights + kept + 100)
  with pytest.raises(UsageError, match='the model and 64 tokens take'):
    room(net, None, 'float32', weights + kept - 100)
  room(net, None, 'int8', weights + kept - 100)


@pytest.mark.parametrize('when', ['reading', 'writing'])
def test_ctrl_c_stops_an_answer_and_not_the_program(talk, capsys, monkeypatch, when):
  whole, before = ''.join(talk.answer('the film')), signal.getsignal(signal.SIGINT)
  talk.reset()
  block, answer, asked = talk.runtime._block, talk.answer, []

  def pressed():
    asked.append(os.kill(os.getpid(), signal.SIGINT))

  def read(i, x, place):
    pressed()
    return block(i, x, place)

  def written(said, stop):
    for piece in answer(said, stop):
      yield piece
      pressed()

  if when == 'reading':
    monkeypatch.setattr(talk.runtime, '_block', read)
  else:
    monkeypatch.setattr(talk, 'answer', written)
  say(talk, 'the film was very good and the plot is not bad')
  shown = capsys.readouterr().out.rstrip('\n')
  assert len(asked) == 1  # the next block, or token, is not begun
  assert len(talk.messages) == (0 if when == 'reading' else 2)
  assert bool(shown) == (when == 'writing')
  assert signal.getsignal(signal.SIGINT) is before
  monkeypatch.undo()
  talk.reset()
  assert ''.join(talk.answer('the film')) == whole
