"""What was said so far, and the next answer to it."""

from collections.abc import Callable, Iterator

import jax

from reduction.chat import stream
from reduction.chat.manners import Manners
from reduction.chat.runtime import Runtime
from reduction.chat.sampling import Sampling
from reduction.errors import require


class Conversation:
  """Turns of a person and a model. A model without a template goes on with all that was said.

  system: what the model is told before, '' for nothing. most: tokens of an answer. stops: strings
  that end one.
  """

  def __init__(
    self, runtime: Runtime, manners: Manners, encode: Callable, decode: Callable, *,
    how: Sampling, seed: int = 0, most: int = 512, stops: tuple[str, ...] = (),
    system: str = '',
  ):  # fmt: skip
    self.runtime, self.manners, self.encode, self.decode = runtime, manners, encode, decode
    self.how, self.most, self.stops, self.system = how, most, stops, system
    self.key = jax.random.key(seed)
    self.messages: list[dict] = []
    self.reset()

  def reset(self):
    """Forgets what was said."""
    told = dict(role='system', content=self.system)
    self.messages = [told] if self.system else []
    self.runtime.forget()

  def answer(self, said: str, stop: Callable[[], bool] | None = None) -> Iterator[str]:
    """The answer, in pieces as they come, until stop() says True or the caller leaves.

    What was given is kept, a model's empty answer too; where nothing was given because it was
    stopped, the conversation is as it was before. So it is where no answer can be given, which
    raises UsageError.
    """
    require(said.strip(), 'there is nothing to answer: the prompt is empty')
    asked = [*self.messages, dict(role='user', content=said)]
    given = ''
    for piece in self._pieces(asked, stop):
      given += piece
      self.messages = [*asked, dict(role='assistant', content=given)]
      yield piece
    if given or not (stop and stop()):
      self.messages = [*asked, dict(role='assistant', content=given)]

  def _pieces(self, asked, stop):
    manners = self.manners
    text = manners.render(asked)
    tokens = list(self.encode(text if manners.chats else manners.begin + text))
    key = jax.random.fold_in(self.key, len(asked))
    following = self.runtime.continued(
      tokens, self.how, key, most=self.most, ends=manners.ends, stop=stop
    )  # fmt: skip
    return stream.text(following, self.decode, self.stops)
