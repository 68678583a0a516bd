"""What is written with a memory is what the whole text would give, turn after turn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.chat import runtime, speed
from reduction.chat.conversation import Conversation
from reduction.chat.manners import Manners
from reduction.chat.runtime import Runtime, cut
from reduction.chat.sampling import Sampling
from reduction.chat.speed import told
from reduction.chat.template import plain
from reduction.errors import DataError, UsageError
from reduction.kernels import int4_cpu, native
from reduction.kernels.int4 import is_weight
from reduction.models.gpt import gpt
from reduction.models.llama import llama
from reduction.models.served import Served
from reduction.net import Net
from reduction.qtensor import Scheme, dequantize
from reduction.quantize.rtn import quantize

SIZES = dict(layers=2, width=32, heads=4, inner=64, vocabulary=128, positions=128)
MODULES = dict(llama=llama(**SIZES, kv_heads=2, tied=True), gpt=gpt(**SIZES))
GREEDY, KEY = Sampling(), jax.random.key(0)


@functools.cache
def net(name, packed=False):
  """A net of random weights; packed in 4 bits."""
  module = MODULES[name]
  params = module.init(jax.random.key(1), np.zeros((1, 4), np.int32))['params']
  params = {path: 3 * w[None] for path, w in tree.named(params)}
  if not packed:
    return Net(module, tree.nest(params))
  for path in [path for path in params if path.startswith('layer') and path.endswith('kernel')]:
    params[path] = quantize(params[path], Scheme(4, 16))
  return Net(Served(module), tree.nest(params))


def greedy(net, tokens, count):
  """The likeliest tokens, each from the whole text again."""
  params, tokens = tree.map(lambda w: w[0], net.params), list(tokens)
  forward = jax.jit(lambda params, x: net.module.apply({'params': params}, x))
  for _ in range(count):
    filled = np.zeros((1, 64), np.int32)
    filled[0, : len(tokens)] = tokens
    tokens.append(int(forward(params, filled)[0, len(tokens) - 1].argmax()))
  return tokens[-count:]


PROMPT = np.random.default_rng(0).integers(0, 128, 21).tolist()


@pytest.mark.parametrize('name', MODULES)
@pytest.mark.parametrize('packed', [False, True])
def test_greedy_tokens_are_those_of_the_whole_text(name, packed):
  of = net(name, packed)
  found = list(Runtime(of).continued(PROMPT, GREEDY, KEY, most=12))
  assert found == greedy(of, PROMPT, 12)
  assert len(set(found)) > 3  # and not one token again and again


def test_what_is_not_finite_is_forgotten_too():
  runtime = Runtime(net('llama'), at_once=False)
  broken = lambda x: jnp.full_like(x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x
  runtime.memory = jax.tree.map(broken, runtime.memory)
  runtime.forget()
  found = list(runtime.continued(PROMPT, GREEDY, KEY, most=4))
  assert found == greedy(net('llama'), PROMPT, 4)


@functools.cache
def large(bits, group):
  """(a net whose products are the kernel's in C++, one of floats that hold the same weights)"""
  module = llama(layers=2, width=64, heads=4, kv_heads=2, inner=128, vocabulary=128, positions=128,
                 tied=True)  # fmt: skip
  params = module.init(jax.random.key(2), np.zeros((1, 4), np.int32))['params']
  packed = {path: 3 * w[None] for path, w in tree.named(params)}
  fake = dict(packed)
  for path in [path for path in packed if path.startswith('layer') and path.endswith('kernel')]:
    packed[path] = quantize(packed[path], Scheme(bits, group))
    fake[path] = dequantize(packed[path])
  return Net(Served(module), tree.nest(packed)), Net(module, tree.nest(fake))


NATIVE = pytest.mark.skipif(not native.ready(), reason='no C++ compiler')


@NATIVE
@pytest.mark.parametrize('bits, group', [(3, 64), (4, 64), (4, 32)])
def test_greedy_tokens_of_the_native_kernel_are_the_fake_quantized_model_s(bits, group):
  packed, fake = large(bits, group)
  running = Runtime(packed)
  assert isinstance(running.params['layers'].gates, int4_cpu.CpuWeight)
  found = list(running.continued(PROMPT, GREEDY, KEY, most=12))
  assert found == greedy(fake, PROMPT, 12) and len(set(found)) > 3
  # a second turn, after all of the first
  more = [*PROMPT, *found, 3, 4, 5, 6, 7, 8, 9, 10]
  assert list(running.continued(more, GREEDY, KEY, most=8)) == greedy(fake, more, 8)
  assert running.times['read'] == 8 + 1


def test_a_text_that_begins_alike_is_not_read_again():
  of = net('llama')
  going = Runtime(of)
  first = list(going.continued(PROMPT, GREEDY, KEY, most=8))
  longer = [*PROMPT, *first, 5, 6, 7]
  second = list(going.continued(longer, GREEDY, KEY, most=8))
  assert going.times['read'] == 3 + 1  # what is new, and the last answer's last token
  assert second == greedy(of, longer, 8)
  changed = [*PROMPT[:10], 3, *PROMPT[11:]]
  assert list(going.continued(changed, GREEDY, KEY, most=8)) == greedy(of, changed, 8)
  assert going.times['read'] == 21 - 10
  assert list(going.continued(changed, GREEDY, KEY, most=8)) == greedy(of, changed, 8)
  assert going.times['read'] == 1


@pytest.mark.parametrize(
  'of', [lambda: net('llama'), lambda: net('llama', True),
         pytest.param(lambda: large(4, 64)[0], marks=NATIVE)],
  ids=['floats', 'packed', 'native'],
)  # fmt: skip
def test_turns_compile_nothing_new(of):
  going = Runtime(of())
  list(going.continued(PROMPT[:9], GREEDY, KEY, most=4))  # read as 8 and 1
  list(going.continued([3, *PROMPT], GREEDY, KEY, most=4))
  list(going.continued([3, *PROMPT[:-1], 3, 4, 5, 6], GREEDY, KEY, most=4))
  programs = *runtime.programs(going.module), runtime._next
  before = [program._cache_size() for program in programs]
  for length in 22, 30, 41, 57:
    list(going.continued(([*PROMPT] * 3)[:length], GREEDY, KEY, most=4))
    list(going.continued(([*PROMPT] * 3)[:length], Sampling(0.7, 5, 0.9, 1.1), KEY, most=4))
  assert [program._cache_size() for program in programs] == before


def test_an_answer_that_was_stopped_is_remembered_so_far():
  of, going = net('llama'), Runtime(net('llama'))
  following = going.continued(PROMPT, GREEDY, KEY, most=20)
  some = [next(following) for _ in range(3)]
  following.close()
  assert list(going.continued([*PROMPT, *some], GREEDY, KEY, most=4)) == greedy(
    of, [*PROMPT, *some], 4
  )


def test_reading_stops_between_blocks_and_goes_on():
  of, going = net('llama'), Runtime(net('llama'))
  asked = []
  stop = lambda: asked.append(1) or len(asked) == 3  # in the second part of the prompt
  longer = [*PROMPT] * 4
  assert list(going.continued(longer, GREEDY, KEY, most=4, stop=stop)) == []
  assert len(asked) == 3 and going.tokens == longer[: cut(84, 0, going.places)[0]]
  assert list(going.continued(PROMPT, GREEDY, KEY, most=4)) == greedy(of, PROMPT, 4)


@pytest.mark.parametrize('packed', [False, True])
def test_the_memory_is_given_away_and_not_copied(packed):
  going = Runtime(net('llama', packed))
  list(going.continued(PROMPT, GREEDY, KEY, most=2))
  before = [kept for kept in jax.tree.leaves(going.memory) if kept.ndim]  # keys and values
  list(going.continued(PROMPT, GREEDY, KEY, most=4))
  assert all(kept.is_deleted() for kept in before)


def test_draws_repeat_by_their_key_and_differ_by_another():
  going, how = Runtime(net('llama')), Sampling(temperature=1.5)
  draw = lambda seed: list(going.continued(PROMPT, how, jax.random.key(seed), most=10))
  assert draw(1) == draw(1) != draw(2)


def test_the_context_ends_a_text_and_an_end_token_too():
  of = net('gpt')
  assert len(list(Runtime(of, context=30).continued(PROMPT, GREEDY, KEY, most=50))) == 30 - 21
  known = greedy(of, PROMPT, 12)
  end = next(token for token in known if known.index(token) > 2)
  found = list(Runtime(of).continued(PROMPT, GREEDY, KEY, most=12, ends=(end,)))
  assert found == known[: known.index(end)]


@pytest.mark.parametrize(
  'tokens, error, line',
  [
    ([], UsageError, 'the prompt is empty'),
    ([1] * 128, UsageError, 'the prompt has 128 tokens, the context 128'),
    ([1, 128], DataError, 'token 128 at'),
  ],
)
def test_a_prompt_that_does_not_fit_is_one_line(tokens, error, line):
  with pytest.raises(error, match=line):
    list(Runtime(net('llama')).continued(tokens, GREEDY, KEY, most=4))


def test_a_context_that_the_model_has_not_is_refused():
  with pytest.raises(UsageError, match='context=129 must be'):
    Runtime(net('llama'), context=129)


@pytest.mark.parametrize('count', [1, 3, 4, 5, 130, 300, 1_025])
@pytest.mark.parametrize('place', [0, 7, 1_000])
def test_lengths_hold_all_tokens_and_stay_inside(count, place):
  lengths = cut(count, place, 2_048)
  assert sum(lengths) >= count and sum(lengths[:-1]) < count
  assert place + sum(lengths) <= 2_048 and sum(lengths) <= 2 * count
  assert sum(cut(5, 2_043, 2_048)) == 5  # no room to fill up


def test_a_token_reads_what_is_packed_and_what_is_remembered():
  going = Runtime(net('gpt', True))
  kernels = 2 * (4 * 32 * 32 + 2 * 32 * 64)
  norms_and_biases = 2 * (4 * 32 + 4 * 32 + 64 + 32) + 2 * 32
  packed = kernels // 2 + kernels // 16 * (4 + 1)  # codes, and a scale and a zero point a group
  assert going.bytes_per_token() == packed + 4 * (norms_and_biases + 128 * 32)
  assert told(going) == 'nothing was answered yet'
  list(going.continued(PROMPT, GREEDY, KEY, most=4))
  assert told(going).startswith('21 tokens read in ')


def test_the_pace_is_that_of_the_steps_between_tokens(monkeypatch):
  going = Runtime(net('llama'))
  monkeypatch.setattr(speed, 'bandwidth', lambda: 100.0 * going.bytes_per_token())
  now = iter(range(10**6))
  monkeypatch.setattr(runtime.time, 'perf_counter', lambda: next(now))  # a second a look
  list(going.continued(PROMPT, GREEDY, KEY, most=1))
  assert going.times['steps'] == 0 and ' 1 written; ' in told(going)
  list(going.continued(PROMPT, GREEDY, KEY, most=6))
  # after the first its step, then tokens 2 to 5 with a step each; the sixth needs none after it
  assert going.times == dict(
    read=1, read_s=1, first_s=2, wrote=6, wrote_s=6, steps=5, steps_s=4
  )
  assert ' 6 written at 1.2 a second, 1 % of what the memory allows' in told(going)


def test_a_conversation_goes_on_and_begins_anew():
  encode, decode = lambda text: list(text.encode()), lambda tokens: bytes(tokens).decode()
  talk = Conversation(
    Runtime(net('llama')), Manners(plain, False, (), ''), encode, decode, how=GREEDY, most=5,
    system='(',
  )  # fmt: skip
  first = ''.join(talk.answer(' one'))
  assert [m['role'] for m in talk.messages] == ['system', 'user', 'assistant']
  assert first == bytes(greedy(net('llama'), encode('( one'), 5)).decode()
  second = ''.join(talk.answer('!'))
  assert second == bytes(greedy(net('llama'), encode('( one' + first + '!'), 5)).decode()
  talk.reset()
  assert ''.join(talk.answer(' one')) == first
  with pytest.raises(UsageError, match='the prompt has'):
    list(talk.answer('x' * 200))
  assert talk.messages[-1]['content'] == first  # as it was before


@pytest.mark.parametrize('name', MODULES)
def test_a_head_in_8_bits_is_near_and_a_quarter(name):
  of, prompt = net(name, packed=True), PROMPT[:20]
  exact, small = Runtime(of), Runtime(of, head=8)
  one, other = exact._read(prompt, 0), small._read(prompt, 0)
  change = np.linalg.norm(one - other) / np.linalg.norm(one)
  assert 0 < change < 0.02
  part = dict(llama='embed', gpt='embed' if MODULES['gpt'].tied else 'out')[name]
  size = lambda r: sum(x.nbytes for x in jax.tree.leaves(r.params[part]))
  assert size(small) < 0.35 * size(exact)  # 8 bits and, of 32 rows, a scale and a zero point
  assert small.bytes_per_token() < exact.bytes_per_token()
  with pytest.raises(UsageError, match='head=4 must be 8'):
    Runtime(of, head=4)


@NATIVE
def test_inputs_in_8_bits_are_near_and_said_to_be():
  module = llama(layers=1, width=64, heads=1, inner=64, vocabulary=32, positions=16, tied=True)
  params = module.init(jax.random.key(1), np.zeros((1, 4), np.int32))['params']
  params = {path: w[None] for path, w in tree.named(params)}
  for path in [path for path in params if path.startswith('layer') and path.endswith('kernel')]:
    params[path] = quantize(params[path], Scheme(4, 64))
  runtime = Runtime(Net(Served(module), tree.nest(params)))
  assert 0 < runtime.round_inputs([1, 2, 3]) < 0.02 and not runtime.tokens
  assert runtime.params['layers'].gates.eight
  assert len(list(runtime.continued([1, 2], GREEDY, KEY, most=3))) == 3
  with pytest.raises(UsageError, match='inputs in 8 bits need the native kernel'):
    Runtime(net('llama')).round_inputs([1])


def test_int8_memory_is_near():
  of = net('llama')
  going = Runtime(of, stored='int8')
  logits = going._read(PROMPT, 0)
  whole = of.module.apply({'params': tree.map(lambda w: w[0], of.params)}, jnp.asarray([PROMPT]))
  change = np.linalg.norm(logits[0] - whole[0, -1]) / np.linalg.norm(whole[0, -1])
  assert 0 < change < 0.03


def test_floats_of_fewer_bits_are_near():
  exact, small = Runtime(net('llama', True)), Runtime(net('llama', True), floats='bfloat16')
  kinds = lambda r: {
    str(x.dtype) for x in jax.tree.leaves((r.params, r.memory), is_leaf=is_weight)
    if not is_weight(x)
  }  # fmt: skip
  assert kinds(exact) == {'float32', 'int32'} and kinds(small) == {'bfloat16', 'int32'}
  one, other = (r._read(PROMPT, 0) for r in (exact, small))
  assert other.dtype == one.dtype
  assert 0 < abs(one - other).max() < 0.05 * abs(one).max()
  with pytest.raises(UsageError, match="floats='int8' must be one of"):
    Runtime(net('llama'), floats='int8')


@NATIVE
def test_a_model_is_never_there_in_two_orders(monkeypatch):
  module = llama(layers=8, width=128, heads=4, kv_heads=2, inner=256, vocabulary=64, positions=32)
  params = module.init(jax.random.key(2), np.zeros((1, 4), np.int32))['params']
  small = lambda path: path.startswith('layer') and path.endswith('kernel')
  params = {
    path: quantize(w[None], Scheme(4, 64)) if small(path) else w[None]
    for path, w in tree.named(params)
  }  # fmt: skip
  of = Net(Served(module), jax.tree.map(np.asarray, tree.nest(params)))
  there = lambda: sum(x.nbytes for x in jax.live_arrays())
  before, seen = there(), []

  def prepacked(kernel, own=runtime.int4.prepacked):
    made = own(kernel)
    seen.append(there() - before)
    return made

  monkeypatch.setattr(runtime.int4, 'prepacked', prepacked)
  _, made = runtime.resident(of)
  size = sum(x.nbytes for x in jax.tree.leaves(made))
  assert len(seen) == 8 * 4 and max(seen) < 1.4 * size
