"""A net that starts from a published model's weights."""

from reduction.data import folders
from reduction.distill.inheritance import FRESH, adopted
from reduction.errors import require
from reduction.formats import huggingface
from reduction.models.bert import settings, weights
from reduction.net import Net
from reduction.run import Run, Stage

# model_type of a config.json -> (its sizes, its weights by path)
FAMILIES = dict(bert=(settings, weights))


def pretrained(
  *, path: str, layers: dict | None = None, fresh: tuple[str, ...] = FRESH, data_dir=None
) -> Stage:
  """Gives the net the weights of a Hugging Face model folder, the same for every seed.

  path: the folder, or a name in the data directory. layers: module -> its name in the model, such
  as {'layer1': 'layer3'}. fresh: modules that keep the weights they have. Rows: a 'pretrained'.
  Raises UsageError where the model has other sizes than the net, MissingInput and DataError for its
  files.
  """

  def stage(net: Net, run: Run) -> Net:
    folder = folders.model(path, data_dir)
    config = huggingface.config(folder)
    kind = config.get('model_type')
    require(kind in FAMILIES, f'{folder} is a model of type {kind!r}, not {", ".join(FAMILIES)}')
    sizes_of, weights_of = FAMILIES[kind]
    for name, theirs in sizes_of(config).items():
      ours = getattr(net.module, name, None)
      fewer = name == 'layers' and ours is not None and ours < theirs
      require(fewer or ours == theirs, f'model.{name}={ours}, but {folder} has {theirs}')
    source = {path: w[None] for path, w in weights_of(huggingface.tensors(folder)).items()}
    params = adopted(net.params, source, layers=layers, fresh=fresh)
    run.log(kind='pretrained', seeds=run.seeds, path=folder.name, fresh=' '.join(fresh))
    return net.replace(params=params)

  return stage
