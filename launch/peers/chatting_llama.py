"""A language model as llama.cpp runs it: the peer of configs/bench/chatting.py.

Needs llama-cpp-python alone. The first line of stdin holds the settings, each further line a job.
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
    import llama_cpp
  except ModuleNotFoundError as error:
    reply(missing=error.name)
    return
  threads, tokens, answer = (settings[name] for name in ('threads', 'tokens', 'answer'))
  model = llama_cpp.Llama(
    settings['model'], n_ctx=settings['prompt'] + answer + 64, n_threads=threads,
    n_threads_batch=threads, verbose=False,
  )  # fmt: skip
  said = llama_cpp.llama_print_system_info().decode()
  reply(about=f'llama-cpp-python {llama_cpp.__version__}, {said}')
  for _ in sys.stdin:
    model.reset()
    llama_cpp.llama_perf_context_reset(model.ctx)
    model.eval(tokens)
    words = [model.sample(temp=0.0)]
    while len(words) < answer:
      model.eval(words[-1:])
      words.append(model.sample(temp=0.0))
    times = llama_cpp.llama_perf_context(model.ctx)
    reply(
      prompt_per_s=1e3 * times.n_p_eval / times.t_p_eval_ms,
      answer_per_s=1e3 * times.n_eval / times.t_eval_ms, text=model.detokenize(words).decode(),
    )  # fmt: skip


if __name__ == '__main__':
  main()
