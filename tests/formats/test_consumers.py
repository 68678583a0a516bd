"""Other programs load what is written here and say the same tokens.

    pip install -r third_party/consumers.txt && pytest tests/formats/test_consumers.py

Each test is skipped where its program is missing. A tiny model of random weights stands for each
family, and the published stories260K where the data directory has it. Texts are continued greedily,
by us with the whole text at each step; rounding may part two ways that are nearly as good, so 30
tokens of 32 must be equal.
"""

import json
import os
import pathlib
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import opened, tree, written
from reduction.formats import huggingface
from reduction.models.bert import bert, settings, weights
from reduction.models.served import Served
from reduction.net import Net, apply
from reduction.qtensor import Scheme
from reduction.quantize.rtn import quantize
from reduction.written import Format
from tests import decoders, sentences

SIZES = dict(
  num_hidden_layers=2, hidden_size=64, num_attention_heads=2, num_key_value_heads=1,
  intermediate_size=96, vocab_size=300, max_position_embeddings=64, rms_norm_eps=1e-5,
  tie_word_embeddings=False, bos_token_id=295, eos_token_id=296, head_dim=32,
)  # fmt: skip
CONFIGS = {kind: dict(SIZES, model_type=kind) for kind in ('llama', 'mistral', 'qwen2', 'qwen3')}
CONFIGS |= dict(
  wide=dict(SIZES, model_type='llama', num_key_value_heads=2, intermediate_size=128),
  gemma=dict(SIZES, model_type='gemma', tie_word_embeddings=True),
  opt=dict(model_type='opt', num_hidden_layers=2, hidden_size=64, num_attention_heads=2, ffn_dim=96,
           vocab_size=300, max_position_embeddings=64, bos_token_id=295, eos_token_id=296,
           pad_token_id=1, word_embed_proj_dim=64),
  gpt2=dict(model_type='gpt2', n_layer=2, n_embd=64, n_head=4, n_inner=96, vocab_size=300,
            n_positions=64, bos_token_id=295, eos_token_id=296, tie_word_embeddings=True),
)  # fmt: skip
ASYMMETRIC, SYMMETRIC = Scheme(4, 32), Scheme(4, 32, symmetric=True)
PROMPTS = 'a bit of it', ' ab ab 12', 'the end'
STORIES = pathlib.Path(os.environ.get('REDUCTION_DATA') or '.') / 'stories260k' / 'stories260K.bin'
COUNT, ENOUGH = 32, 30


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """folder(model, scheme, form) -> (its place, `Opened` of the model, the net that was written).

  model: of CONFIGS, or 'stories260K'. scheme: None leaves the weights as they are.
  """
  root, found = tmp_path_factory.mktemp('consumers'), {}

  def make(model, scheme, form, dtype='float32'):
    if model not in found:
      if model == 'stories260K' and not STORIES.is_file():
        pytest.skip('needs the folder stories260k in REDUCTION_DATA')
      path = STORIES
      if model != 'stories260K':
        path = decoders.model(root / model, CONFIGS[model], decoders.bytes_and_words())
        told = '{"tokenizer_class": "PreTrainedTokenizerFast"}'
        (path / 'tokenizer_config.json').write_text(told)
      found[model] = opened.language_model(path)
    net = found[model].net
    if scheme:
      inside = lambda path: path.startswith('layer') and path.endswith('kernel')
      pack = lambda path, w: (
        quantize(np.asarray(w), scheme, dtype=np.float16) if inside(path) else np.asarray(w)
      )
      net = Net(Served(net.module), tree.map_named(pack, net.params))
    place = root / f'{model}-{form}-{scheme}'.replace(' ', '')
    if not place.exists():
      place.mkdir()
      written.write(place, net, found[model].config, found[model].files(), Format(form, dtype))
    return place, found[model], net

  return make


def greedy(net, prompts, never=(), along=None):
  """What the net says after each of the prompts, COUNT tokens, none of them one of never.

  along: what another has said; then each token is what the net says after those before it there.
  """
  params = tree.map(lambda w: jnp.asarray(w[0]), net.params)
  run = jax.jit(lambda tokens: net.module.apply({'params': params}, tokens))
  said = []
  for i, prompt in enumerate(prompts):
    tokens = np.zeros((1, len(prompt) + COUNT), np.int32)
    tokens[0, : len(prompt)] = prompt
    if along:
      tokens[0, len(prompt) :] = along[i]
    said.append([])
    for at in range(len(prompt), tokens.shape[1]):
      logits = np.array(run(tokens)[0, at - 1])
      logits[list(never)] = -np.inf
      said[i].append(int(logits.argmax()))
      tokens[0, at] = along[i][at - len(prompt)] if along else said[i][-1]
  return said


def assert_equal(ours, theirs):
  equal = [sum(a == b for a, b in zip(x, y)) for x, y in zip(ours, theirs, strict=True)]
  assert all(len(said) == COUNT for said in theirs) and min(equal) >= ENOUGH, equal


HF = [(family, None, 'float32') for family in CONFIGS]
HF += [(family, SYMMETRIC, 'compressed-tensors') for family in CONFIGS if family != 'gpt2']
HF += [('llama', ASYMMETRIC, 'compressed-tensors'), ('stories260K', None, 'float32')]
HF += [('stories260K', Scheme(4, 4), 'compressed-tensors'), ('llama', ASYMMETRIC, 'float32')]
HF += [
  ('llama', Scheme(bits, 32, symmetric=sym), 'compressed-tensors')
  for bits in (2, 3, 8) for sym in (True, False)
]  # fmt: skip


@pytest.mark.parametrize('model, scheme, form', HF)
def test_transformers(folder, model, scheme, form):
  transformers = pytest.importorskip('transformers', reason='needs third_party/consumers.txt')
  torch = pytest.importorskip('torch')
  how = {}
  if form == 'compressed-tensors':
    pytest.importorskip('compressed_tensors')
    if not scheme.symmetric:  # its layers hold no packed zero points
      how['quantization_config'] = transformers.CompressedTensorsConfig(dequantize=True)
  place, found, net = folder(model, scheme, form)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **how)
  words = transformers.AutoTokenizer.from_pretrained(place)
  prompts = [found.encode(text) for text in PROMPTS]
  assert [words(text)['input_ids'] for text in PROMPTS] == prompts
  said, params = [], tree.map(lambda w: jnp.asarray(w[0]), net.params)
  for prompt in prompts:
    with torch.no_grad():
      logits = theirs.eval()(torch.tensor([prompt])).logits.numpy()
      tokens = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=COUNT, do_sample=False, eos_token_id=None, pad_token_id=0,
      )  # fmt: skip
    said.append(tokens[0, len(prompt) :].tolist())
    ours = net.module.apply({'params': params}, np.array([prompt]))
    near = 1e-3 if scheme else 2e-4  # it unpacks weights into 16 bits
    np.testing.assert_allclose(ours, logits, atol=near * abs(logits).max())
  assert_equal(greedy(net, prompts), said)


def test_transformers_says_what_our_bert_does(tmp_path):
  transformers = pytest.importorskip('transformers', reason='needs third_party/consumers.txt')
  torch = pytest.importorskip('torch')
  folder = sentences.model(tmp_path)
  tokens = np.array([[7, 3, 49, 8, 1, 0, 0, 0], [7, 1, 2, 3, 4, 5, 6, 8]])
  theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
    folder, num_labels=4
  ).eval()
  with torch.no_grad():
    said = theirs(torch.tensor(tokens), attention_mask=torch.tensor(tokens > 0)).logits.numpy()
  module = bert(**settings(huggingface.config(folder)), classes=said.shape[1], pooling='first')
  found = weights(huggingface.tensors(folder))
  shapes = jax.eval_shape(module.init, jax.random.key(0), tokens)['params']
  params = tree.map_named(lambda path, w: found[path].reshape(w.shape), shapes)
  np.testing.assert_allclose(apply(module, params, {}, tokens), said, rtol=0, atol=2e-5)


def llama_cpp(xllamacpp, place):
  """A server of a GGUF file, as exact as it can be: a cache of float32."""
  params = xllamacpp.CommonParams()
  params.model.path, params.n_ctx, params.n_parallel = str(place / 'model.gguf'), 64, 1
  params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
  params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
  params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
  params.warmup = False
  return xllamacpp.Server(params)


def asked(server, what, **request):
  """The answer of a server on this machine."""
  address, kind = f'{server.listening_address}/{what}', {'Content-Type': 'application/json'}
  request = urllib.request.Request(address, json.dumps(request).encode(), kind)
  with urllib.request.urlopen(request, timeout=120) as answer:
    return json.load(answer)


GGUF = [(family, None, 'f32') for family in ('llama', 'mistral', 'qwen2', 'qwen3', 'stories260K')]
GGUF += [('llama', ASYMMETRIC, 'q4_1'), ('llama', SYMMETRIC, 'q4_0'), ('qwen2', None, 'q8_0')]


@pytest.mark.parametrize('model, scheme, form', GGUF)
def test_llama_cpp(folder, model, scheme, form):
  xllamacpp = pytest.importorskip('xllamacpp', reason='needs third_party/consumers.txt')
  place, found, _ = folder(model, scheme, form)
  net = opened.language_model(place / 'model.gguf').net
  server, said = llama_cpp(xllamacpp, place), []
  how = dict(n_predict=COUNT, temperature=0, repeat_penalty=1.0, ignore_eos=True)
  for text in PROMPTS:
    said.append(asked(server, 'completion', prompt=text, return_tokens=True, **how)['tokens'])
  del server
  ends = [found.config['eos_token_id']]  # which llama.cpp does not say when it must go on
  # it rounds the inputs of blocks to 8 bits, which parts ways nearly as good: judged token by token
  along = None if form == 'f32' else said
  assert_equal(greedy(net, [found.encode(text) for text in PROMPTS], ends, along), said)


VLLM = [
  ('llama', ASYMMETRIC, 'compressed-tensors'), ('llama', ASYMMETRIC, 'awq-gemm'),
  ('llama', SYMMETRIC, 'gptq_v2'), ('qwen2', SYMMETRIC, 'gptq'),
  ('qwen3', SYMMETRIC, 'compressed-tensors'), ('opt', ASYMMETRIC, 'awq-gemm'),
  ('gemma', SYMMETRIC, 'awq-gemm'), ('mistral', None, 'float32'),
]  # fmt: skip


@pytest.mark.parametrize('model, scheme, form', VLLM)
def test_vllm(folder, monkeypatch, model, scheme, form):
  for name, value in dict(
    VLLM_CPU_KVCACHE_SPACE='1', VLLM_ENABLE_V1_MULTIPROCESSING='0', HF_HUB_OFFLINE='1',
    VLLM_CPU_OMP_THREADS_BIND='nobind', VLLM_NO_USAGE_STATS='1',
  ).items():  # fmt: skip
    monkeypatch.setenv(name, value)
  vllm = pytest.importorskip('vllm', reason='needs third_party/consumers-vllm.txt')
  import torch
  from vllm import _custom_ops

  own = hasattr(torch.ops._C, 'cpu_gemm_wna16')
  if not own:
    monkeypatch.setattr(_custom_ops, 'cpu_gemm_wna16', product)
  place, found, net = folder(model, scheme, form)
  prompts = [found.encode(text) for text in PROMPTS]
  half = form.startswith(('awq', 'gptq')) or (own and scheme)  # its layouts, its kernel
  dtype = 'float16' if half else 'float32'
  server = vllm.LLM(str(place), dtype=dtype, enforce_eager=True, max_model_len=64, max_num_seqs=4)
  asked = [dict(prompt_token_ids=prompt) for prompt in prompts]
  how = vllm.SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)
  said = [list(answer.outputs[0].token_ids) for answer in server.generate(asked, how)]
  assert_equal(greedy(net, prompts), said)


def product(input, q_weight, scales, zeros, bias, pack_factor, isa_hint):
  """vLLM's product with 4-bit weights, which its CPU build has for AVX-512 alone, from its layout:
  16 columns are a block, whose rows follow each other, eight codes a word.
  """
  from vllm.model_executor.layers.quantization.utils.quant_utils import (
    unpack_quantized_values_into_int32 as unpacked,
  )
  from vllm.scalar_type import scalar_types

  del pack_factor, isa_hint
  (groups, columns), rows = scales.shape, q_weight.shape[1] // 2
  words = q_weight.view(columns // 16, rows, 2).permute(1, 0, 2).reshape(rows, columns // 8)
  wide = lambda x: x.float().repeat_interleave(rows // groups, 0)
  zero = 8.0 if zeros is None else wide(unpacked(zeros, scalar_types.uint4, 1))
  w = (unpacked(words, scalar_types.uint4, 1).float() - zero) * wide(scales)
  y = input.float() @ w
  return (y if bias is None else y + bias).to(input.dtype)


EXACT = [
  ('llama', Scheme(bits, 32, symmetric=sym), 'gptq_v2')
  for bits in (2, 3, 4, 8) for sym in (True, False)
]  # fmt: skip
EXACT += [('mistral', SYMMETRIC, 'gptq'), ('llama', Scheme(8, 32, symmetric=True), 'gptq')]
EXACT += [('llama', ASYMMETRIC, 'awq-gemm'), ('wide', Scheme(4, 64), 'awq-gemv')]


@pytest.mark.parametrize('model, scheme, form', EXACT)
def test_gptqmodel(folder, monkeypatch, model, scheme, form):
  gptqmodel = pytest.importorskip('gptqmodel', reason='needs third_party/consumers-gptqmodel.txt')
  import torch

  if form == 'awq-gemv':
    in_gptqmodel_on_a_processor(monkeypatch)
  place, found, net = folder(model, scheme, form, 'float16')
  how = {'awq-gemm': 'AWQ_TORCH', 'awq-gemv': 'AWQ_GEMV'}.get(form, 'GPTQ_TORCH')
  how = dict(device='cpu', backend=gptqmodel.BACKEND[how], dtype=torch.float16)
  theirs = gptqmodel.GPTQModel.load(str(place), **how).model
  prompts, said = [found.encode(text) for text in PROMPTS], []
  for prompt in prompts:
    tokens = theirs.generate(
      input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
      max_new_tokens=COUNT, do_sample=False, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    said.append(tokens[0, len(prompt) :].tolist())
  # it computes in 16 bits, which parts ways nearly as good: judged token by token
  assert_equal(greedy(net, prompts, along=said), said)


def in_gptqmodel_on_a_processor(monkeypatch):
  """GPTQModel's kernels of AWQ's GEMV layout are for GPUs: here its own unpacking for MLX (Apple's
  GPUs), and a product.
  """
  import torch
  from gptqmodel.models._const import DEVICE
  from gptqmodel.nn_modules.qlinear import gemv_awq
  from gptqmodel.utils.mlx_packing import repack_awq_gemv

  def product(x, codes, scales, zeros, size, *_):
    out, rows = codes.shape[0], codes.shape[1] * 8
    parts = (part.numpy() for part in (codes, zeros, scales))
    words, scales, least = repack_awq_gemv(*parts, rows, out, size)
    codes = (words[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(out, -1, size)
    w = (codes * np.float32(scales[..., None]) + least[..., None]).reshape(out, rows)
    return (x.float() @ torch.tensor(np.float32(w)).T).half()

  monkeypatch.setattr(gemv_awq.AwqGEMVLinear, 'SUPPORTS_DEVICES', [DEVICE.CPU])
  for kernel in 'awq_gemv_forward', 'awq_gemmv2_forward':
    monkeypatch.setattr(gemv_awq, kernel, product)


CUTS = {
  'qwen2': r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+',
  'llama-bpe': r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+',
  'smollm': None,
}  # fmt: skip


@pytest.mark.parametrize('name', CUTS)
def test_llama_cpp_cuts_texts_as_the_tokenizer_does(tmp_path, name):
  xllamacpp = pytest.importorskip('xllamacpp', reason='needs third_party/consumers.txt')
  words = decoders.bytes_and_words(CUTS[name])
  found = opened.language_model(decoders.model(tmp_path / 'in', CONFIGS['llama'], words))
  (tmp_path / 'out').mkdir()
  written.write(tmp_path / 'out', found.net, found.config, found.files(), Format('f32'))
  server = llama_cpp(xllamacpp, tmp_path / 'out')
  for text in (*PROMPTS, " ab's 1212 it\n\n a  b", 'ünï 漢 12 34', "it'd  \tab <|3|> end"):
    tokens = asked(server, 'tokenize', content=text, parse_special=True)['tokens']
    assert tokens == found.encode(text), text
