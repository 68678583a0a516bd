"""A net that starts from a published model's weights."""

from reduction.data import folders
from reduction.distill.inheritance import FRESH, adopted
from reduction.errors import require
from reduction.formats import huggingface
from reduction.models import language
from reduction.models.bert import settings, weights
from reduction.net import Net
from reduction.run import Run, Stage

# model_type of a config.json -> (its sizes, its weights by path, what a net keeps of its own)
FAMILIES = dict(bert=(settings, lambda tensors, config: weights(tensors), FRESH))
FAMILIES |= {kind: (f.settings, f.weights, ()) for kind, f in language.FAMILIES.items()}


def pretrained(
  *, path: str, layers: dict | None = None, fresh: tuple[str, ...] | None = None, data_dir=None
) -> Stage:
  """Gives the net the weights of a Hugging Face model folder, the same for every seed.

  path: the folder, or a name in the data directory. layers: module -> its name in the model, such
  as {'layer1': 'layer3'}. fresh: modules that keep the weights they have; None is 'out' of an
  encoder and nothing of a language model. Rows: a 'pretrained'.
  Raises UsageError where the model has other sizes than the net, MissingInput and DataError for its
  files.
  """

  def stage(net: Net, run: Run) -> Net:
    folder = folders.model(path, data_dir)
    config = huggingface.config(folder)
    kind = config.get('model_type')
    known = isinstance(kind, str) and kind in FAMILIES
    require(known, f'{folder} is a model of type {kind!r:.60}, not {", ".join(FAMILIES)}')
    sizes_of, weights_of, own = FAMILIES[kind]
    for name, theirs in sizes_of(config).items():
      ours = getattr(net.module, name, None)
      fewer = name == 'layers' and ours is not None and ours < theirs
      require(fewer or ours == theirs, f'model.{name}={ours}, but {folder} has {theirs}')
    kept, found = own if fresh is None else fresh, weights_of(huggingface.tensors(folder), config)
    source = {path: w[None] for path, w in found.items()}
    params = adopted(net.params, source, layers=layers, fresh=kept)
    run.log(kind='pretrained', seeds=run.seeds, path=folder.name, fresh=' '.join(kept))
    return net.replace(params=params)

  return stage
