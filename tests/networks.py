"""Federations of small nets on digits, and a wire between threads."""

import functools
import queue
import threading

from reduction import models, stages
from reduction.federate import serving, working
from reduction.net import create
from reduction.run import Run

ADAM = dict(name='adam', learning_rate=5e-3)
STUDENT, TEACHER = dict(name='mlp', widths=(16,)), dict(name='mlp', widths=(40,))
FEDERATION = dict(
  rounds=3, batch=32, epochs=1, partition=dict(name='dirichlet', clients=3, alpha=1)
)


def fedkd(learn=None, student=STUDENT, **federation):
  """The stage, simulated or with the rounds of learn."""
  given = dict(learn=learn) if learn else {}
  return stages.fedkd(
    federation=dict(FEDERATION, **federation), teachers=(TEACHER, dict(TEACHER, widths=(24,))),
    student=student, optimizer=ADAM, lesson=dict(pairs=(dict(student='fc1', teacher='fc1'),)),
    **given,
  )  # fmt: skip


def fedavg(learn=None, thin=0.0, of=(), **federation):
  """The same without teachers. of: other arguments of the stage."""
  given = dict(optimizer=ADAM) | dict(of) | (dict(learn=learn) if learn else {})
  given |= dict(thin=thin) if thin else {}
  return stages.fedavg(federation=dict(FEDERATION, **federation), student=STUDENT, **given)


def done(stage, digits, workdir=None):
  """(what the stage made of a fresh net, the run)"""
  run = Run(digits, (0,), workdir, save_every=0)
  net = create(models.mlp(widths=(4,)), run.key('init', 0), digits.train.x[:1])
  return stage(net, run.child('fed')), run


class Wire:
  """Clients in threads; ask passes frames to them and back. frames: all that ever passed."""

  def __init__(self, clients):
    self.boxes = {client: queue.Queue() for client in clients}
    self.frames, self.change = [], lambda client, greeting, answer: answer

  def wait(self, client, most):
    frame, answers = self.boxes[client].get(timeout=200)
    assert len(frame[1]) <= most
    return frame, answers.put

  def ask(self, greetings, most):
    waiting = []
    for client, frame in greetings.items():
      answers = queue.Queue()
      self.frames.append((client, frame))
      if client in self.boxes:
        self.boxes[client].put((frame, answers))
        waiting.append((client, frame, answers))
    for client, frame, answers in waiting:
      answer = answers.get(timeout=200)
      self.frames.append((client, answer))
      assert len(answer[1]) <= most
      answer = self.change(client, frame, answer)
      if answer is not None:
        yield client, answer


def networked(make, digits, clients=(0, 1, 2), change=None, **federation):
  """(net, run of the server, {client: (its net, its run)}, wire)"""
  wire, found = Wire(clients), {}
  wire.change = change or wire.change

  def work(client):
    learn = working.working(functools.partial(wire.wait, client), client, 'c')
    found[client] = done(make(learn, **federation), digits)

  threads = [threading.Thread(target=work, args=(client,), daemon=True) for client in clients]
  for thread in threads:
    thread.start()
  net, run = done(make(serving.serving(wire.ask, 'c'), **federation), digits)
  for thread in threads:
    thread.join(200)
  assert found.keys() == set(clients)
  return net, run, found, wire


def rows(run, kind):
  """Those of a kind."""
  return [row for row in run.rows if row['kind'] == kind]
