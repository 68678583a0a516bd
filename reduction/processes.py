"""More than one process: all run the same program on the same values, and process 0 alone writes.

What touches files goes through `everywhere`: process 0 does it, and all get its value or its error,
so that they go on, or end, together.
"""

import os
import re
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import serialization

from reduction import errors
from reduction.errors import UsageError, require


def start(environment: Mapping[str, str] = os.environ, *, timeout: int = 60):
  """Joins the other processes of this run, where the environment tells of some.

  REDUCTION_PROCESS=1/2 with REDUCTION_COORDINATOR=host:port (`launch.local`, Kubernetes), SLURM's
  steps, Open MPI and TPU pods. Call before JAX touches a device. timeout: seconds to wait.
  """
  if own := environment.get('REDUCTION_PROCESS'):
    address = environment.get('REDUCTION_COORDINATOR', '')
    told = re.fullmatch(r'(\d+)/(\d+)', own)
    require(told and address, f'REDUCTION_PROCESS={own} with REDUCTION_COORDINATOR={address!r}: '
                              'say INDEX/COUNT and host:port')  # fmt: skip
    index, count = map(int, told.groups())
    local = address.startswith('127.')
    jax.distributed.initialize(
      address, count, index, initialization_timeout=timeout,
      heartbeat_timeout_seconds=10 if local else 100,  # until a silent process is given up
      coordinator_bind_address=address if local else None,  # else it listens to every network
    )  # fmt: skip
  elif cluster(environment):
    jax.distributed.initialize(initialization_timeout=timeout)


def cluster(environment: Mapping[str, str]) -> str | None:
  """The name of the cluster whose several processes this is one of, or None."""
  count = lambda name: int(environment.get(name) or 1)
  if count('SLURM_NTASKS') > 1 and 'SLURM_STEP_NODELIST' in environment:
    return 'SLURM'  # an allocation without srun has no step
  if count('OMPI_COMM_WORLD_SIZE') > 1:
    return 'Open MPI'
  if len(environment.get('TPU_WORKER_HOSTNAMES', '').split(',')) > 1:
    return 'TPU pod'
  return None


def joined() -> bool:
  """Whether this process has joined others."""
  return jax.distributed.is_initialized()


def first() -> bool:
  """Whether this is process 0, the one that writes."""
  return jax.process_index() == 0


def everywhere(f: Callable[[], object]):
  """f() of process 0, on every process; a UserError there is raised on all.

  The value: dicts with text keys, lists, text, numbers, None and numpy arrays.
  """
  if jax.process_count() == 1:
    return f()
  said = b''
  if first():
    try:
      said = serialization.msgpack_serialize(dict(value=f()))
    except errors.UserError as error:
      said = serialization.msgpack_serialize(dict(error=type(error).__name__, text=str(error)))
  heard = serialization.msgpack_restore(_broadcast(said))
  if 'error' in heard:
    raise getattr(errors, heard['error'])(heard['text'])
  return heard['value']


def _broadcast(content: bytes) -> bytes:
  from jax.experimental import multihost_utils

  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
  padded = np.zeros(size, np.uint8)
  if first():
    padded[:] = np.frombuffer(content, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()


def agree(value: int) -> int:
  """The largest value that any process passes, so that all take the same turn."""
  return int(_all(np.int32(value)).max()) if jax.process_count() > 1 else value


def require_same(what: str, digest: str):
  """Raises UsageError, on every process, unless all pass the same digest (hex)."""
  if jax.process_count() == 1:
    return
  found = [bytes(row) for row in _all(np.frombuffer(digest.encode()[:16].ljust(16), np.uint8))]
  other = [i for i, one in enumerate(found) if one != found[0]]
  if other:
    raise UsageError(f'process {other[0]} has another {what} than process 0; give all the same')


def _all(value: np.ndarray) -> np.ndarray:
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(value))


def require_one(what: str):
  """Raises UsageError where there are several processes."""
  require(
    jax.process_count() == 1, f'{what} works in one process, this run has {jax.process_count()}'
  )
