"""One training on several devices: batches over the axis 'data', matrices over the axis 'model'.

Every array keeps its whole shape; where its parts lie is said by a NamedSharding, and XLA adds what
the devices must tell each other. The mesh lives inside `train.train`: what goes in and comes out
are arrays of one device.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from reduction import tree
from reduction.errors import require

AXES = ('data', 'model')


def parse(text: str) -> Mesh:
  """The mesh that '4' (data) or '4x2' (data x model) names. Raises UsageError for other texts."""
  found = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
  require(found is not None, f'mesh {text!r} is not DATA or DATAxMODEL, such as 4 or 4x2')
  return make(int(found[1]), int(found[2] or 1))


def default() -> Mesh | None:
  """All devices along 'data' where there are several processes, else None."""
  return make(jax.device_count()) if jax.process_count() > 1 else None


def make(data: int, model: int = 1) -> Mesh:
  """The first data x model devices. Raises UsageError where there are fewer."""
  wanted, have = data * model, jax.devices()
  require(data > 0 and model > 0, f'mesh {data} x {model} must have at least one device')
  require(
    wanted <= len(have),
    f'mesh {data} x {model} needs {wanted} devices, there are {len(have)}; on a CPU '
    f'XLA_FLAGS=--xla_force_host_platform_device_count={wanted} makes them',
  )
  require(
    jax.process_count() == 1 or wanted == len(have),
    f'mesh {data} x {model} must use all {len(have)} devices of all processes',
  )
  # explicit axes, the default, refuse optax's losses
  kinds = (AxisType.Auto,) * 2
  return jax.make_mesh((data, model), AXES, axis_types=kinds, devices=have[:wanted])


def weights(mesh: Mesh, x) -> NamedSharding:
  """Where a weight [R, ..., out] lies: matrices and kernels are cut along out where it divides."""
  cut = x.ndim > 2 and x.shape[-1] % mesh.shape['model'] == 0
  return _along(mesh, x, 'model') if cut else whole(mesh, x)


def whole(mesh: Mesh, x) -> NamedSharding:
  """Everything on every device."""
  del x
  return NamedSharding(mesh, PartitionSpec())


def batches(mesh: Mesh, x) -> NamedSharding:
  """Cut along the last axis, that of the examples of a batch."""
  return _along(mesh, x, 'data')


def examples(mesh: Mesh, x) -> NamedSharding:
  """Cut along the first axis, that of examples, where the devices of the data axis share it."""
  even = len(x) % mesh.shape['data'] == 0
  return NamedSharding(mesh, PartitionSpec('data')) if even else whole(mesh, x)


def shared_out(mesh: Mesh | None, batches: list) -> list:
  """Batches on the devices of the data axis; as they are without a mesh."""
  return place(mesh, batches, examples) if mesh else batches


def _along(mesh, x, axis) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec(*(None,) * (x.ndim - 1), axis))


def place(mesh: Mesh, values, rule):
  """values, the same on every process, as arrays on the mesh, each leaf where rule says."""

  def put(x):
    where = rule(mesh, x)
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(where, x.ndim):
      return x
    if tree.is_key(x):
      words = jax.random.key_data(x)
      return tree.wrap_key(put(words), x)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, where, lambda index: host[index])

  return tree.map(put, values)


def gather(values):
  """values with what lies on other processes brought here; all processes take part."""

  def fetch(x):
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
      return x
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(x, tiled=True)

  return tree.map(fetch, values)


def unplace(values):
  """Arrays of a mesh as arrays of this process's default device."""
  return tree.map(lambda x: jnp.asarray(np.asarray(x)), gather(values))


def check_batch(mesh: Mesh, batch: int):
  """Raises UsageError unless the devices of the data axis share a batch evenly."""
  devices = mesh.shape['data']
  require(
    batch % devices == 0,
    f'{batch=} does not divide over the {devices} devices of the data axis; '
    f'take {math.ceil(batch / devices) * devices}',
  )


@functools.lru_cache(maxsize=64)
def program(f, in_axes: tuple, mesh: Mesh):
  """f, which returns (carry, table), for all replicates at once and compiled for the mesh.

  The carry lies as `weights` says, so that the next call finds it where this one left it.
  """
  mapped = jax.vmap(f, in_axes=in_axes)

  def run(*args):
    carry, table = mapped(*args)
    fixed = lambda rule: lambda x: jax.lax.with_sharding_constraint(x, rule(mesh, x))
    return tree.map(fixed(weights), carry), tree.map(fixed(whole), table)

  return jax.jit(run)
