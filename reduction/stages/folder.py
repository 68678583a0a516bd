"""A language model's net written for vLLM, Transformers or llama.cpp: what a run is there for."""

from reduction import written
from reduction.errors import require
from reduction.net import Net
from reduction.opened import Opened
from reduction.run import Run, Stage

NAME = 'model'


def folder(
  *, format: str = 'compressed-tensors', dtype: str = 'float16', shard: int = 2 * 10**9,
  source: Opened | None = None,
) -> Stage:  # fmt: skip
  """Writes the net as a model folder under the workdir and returns it as it was.

  format, dtype, shard: of `written.Format`. source: what the net was opened from, whose config.json
  and tokenizer go with it. Rows: a 'folder' with its format, bytes, files and path in the workdir.
  Raises UsageError for what the format does not hold.
  """
  form = written.Format(format, dtype, shard)
  require(source is not None, 'folder is for language models: config.model.path names one')
  written.fits(source.config, form, files=source.files())

  def stage(net: Net, run: Run) -> Net:
    require(len(run.seeds) == 1, 'a language model from a folder is one net: give one seed')
    with run.write(NAME) as unfinished:
      written.write(unfinished, net, source.config, source.files(), form)
      sizes = [file.stat().st_size for file in unfinished.iterdir()]
    path = run.workdir.joinpath('files', *run.path, NAME)
    run.log(
      kind='folder', summary=True, seeds=run.seeds, format=format, bytes=sum(sizes),
      files=len(sizes), path=str(path.relative_to(run.workdir)),
    )  # fmt: skip
    if run.progress:
      run.progress.line(f'{format}, {sum(sizes):,} bytes: {path}')
    return net

  return stage
