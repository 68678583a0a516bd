"""The apps that Flower runs at both ends: they carry frames and know nothing of what is in them.

The server and the clients of `federate.network` are processes of their own, which live as long as
the federation, with their data, teachers and compiled programs; Flower starts a process a message.
An app passes the one flat array of a message to a socket of its own machine, and the answer back.
Flower 1.41 (Message API).
"""

import socket
import time
from collections.abc import Iterator

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from reduction.errors import UserError
from reduction.federate import frames

NAME = 'frame'
PAUSE = 0.2  # seconds between two looks

client, server = ClientApp(), ServerApp()


def packed(data: bytes) -> RecordDict:
  """A frame as the only array of a message: each further one costs kilobytes of HTTP."""
  one = Array(dtype='uint8', shape=(len(data),), stype=NAME, data=data)
  return RecordDict({NAME: ArrayRecord({NAME: one})})


def frame(content: RecordDict) -> bytes:
  """The frame of a message."""
  return content[NAME][NAME].data


def reach(path: str) -> socket.socket:
  """The process that listens there."""
  line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
  line.connect(path)
  return line


@client.train()
def answer(message: Message, context: Context) -> Message:
  """What this node's client says to a greeting; an error where it says nothing."""
  try:
    with reach(context.node_config['socket']) as line:
      line.sendall(frame(message.content))
      said = frames.receive(line)
  except (OSError, UserError):
    said = None
  return Message(packed(said or frames.joined(dict(error='my process is gone'))), reply_to=message)


@server.main()
def serve(grid: Grid, context: Context):
  """Carries greetings to nodes and their answers back until the server closes its line.

  A request: the head nodes=[(node, bytes)], seconds, gather, most; the greetings one after another.
  For each answer a frame with the head node=, at the end one with node=None; most: bytes of an
  answer at most, a longer one goes no further.
  """
  with reach(context.run_config['socket']) as line:
    while (data := frames.receive(line)) is not None:
      head, body = frames.parted(data)
      greetings, at = {}, 0
      for node, size in head['nodes']:
        greetings[node], at = body[at : at + size], at + size
      for node, said in exchanged(grid, greetings, head['seconds'], head['gather']):
        if len(said) > head['most']:
          said = frames.joined(dict(error=f'{len(said):,} bytes, above {head["most"]:,}'))
        frames.send(line, dict(node=node), said)
      frames.send(line, dict(node=None))


def exchanged(
  grid: Grid, greetings: dict[int, bytes], seconds: float, gather: bool
) -> Iterator[tuple[int, bytes]]:
  """(node, its answer), as they come, for so long. gather: waits for nodes that are not there yet.

  An answer is known by the greeting that it answers: an error that Flower makes for a node that
  went away does not name it.
  """
  until, sent, waiting = time.monotonic() + seconds, {}, dict(greetings)
  while time.monotonic() < until:
    there = set(grid.get_node_ids()) & waiting.keys()
    for node in there:
      message = Message(packed(waiting.pop(node)), dst_node_id=node, message_type='train')
      sent |= {number: node for number in grid.push_messages([message]) if number}
    for reply in grid.pull_messages(list(sent)) if sent else ():
      node = sent.pop(reply.metadata.reply_to_message_id, None)
      if node is not None:
        error = frames.joined(dict(error='its node went away'))
        yield node, error if reply.has_error() else frame(reply.content)
    if not sent and not (waiting and gather):
      return
    time.sleep(PAUSE)
