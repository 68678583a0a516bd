"""A language model as llama.cpp runs it: the peer of configs/bench/chatting.py.

Needs xllamacpp alone. The first line of stdin holds the settings, each further line a job.
"""

import json
import os
import sys

OUT = os.fdopen(os.dup(1), 'w')  # the library tells what it does on 1 and 2
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(1, 2)


def reply(**fields):
  """A line of JSON."""
  print(json.dumps(fields), file=OUT, flush=True)


def main():
  """Answers each job with tokens a second of both stages, as the library counts them."""
  settings = json.loads(sys.stdin.readline())
  try:
    import xllamacpp
  except ModuleNotFoundError as error:
    reply(missing=error.name)
    return
  how = xllamacpp.CommonParams()
  how.model.path, how.n_parallel, how.n_ctx = settings['model'], 1, 0
  how.n_ctx = settings['prompt'] + settings['answer'] + 64
  how.cpuparams.n_threads = how.cpuparams_batch.n_threads = settings['threads']
  server = xllamacpp.Server(how)
  reply(about=f'xllamacpp {xllamacpp.__version__}, {xllamacpp.get_system_info()}')
  asked = dict(
    prompt=settings['tokens'], n_predict=settings['answer'], temperature=0.0, cache_prompt=False,
    ignore_eos=True, stream=False,
  )  # fmt: skip
  for _ in sys.stdin:
    found = server.handle_completions(asked)
    times = found['timings']
    # its time of writing begins after the first token, which the prompt gives
    reply(
      prompt_per_s=times['prompt_per_second'], text=found['choices'][0]['text'],
      answer_per_s=1e3 * (times['predicted_n'] - 1) / times['predicted_ms'],
    )  # fmt: skip


if __name__ == '__main__':
  main()
