"""Small networks made of plain `nn.Dense`, as a user would write them."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Gain(nn.Module):
  """Gemma's norm: its gain is 1 + scale."""

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.zeros, (x.shape[-1],))
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale)


class Block(nn.Module):
  """A transformer block of 4 heads. shared: query heads that read one key and value head."""

  norm: type[nn.Module] = nn.RMSNorm
  shared: int = 2
  gated: bool = True
  activation: str = 'silu'
  fused: bool = False
  after: bool = False  # norms after the sums, as in BERT

  @nn.compact
  def __call__(self, x, train=False):
    n, length, width = x.shape
    heads, size = 4, width // 4
    h = x if self.after else self.norm(name='norm1')(x)
    if self.fused:
      q, k, v = jnp.split(nn.Dense(3 * width, name='qkv')(h), 3, -1)
    else:
      q = nn.Dense(width, name='q')(h)
      k, v = (nn.Dense(width // self.shared, name=name)(h) for name in 'kv')
    q = q.reshape(n, length, heads, size)
    k, v = (a.reshape(n, length, -1, size) for a in (k, v))
    k, v = (jnp.repeat(a, heads // a.shape[2], 2) for a in (k, v))
    seen = jnp.tril(jnp.ones((length, length), bool))
    scores = jnp.where(seen, jnp.einsum('nqhd,nkhd->nhqk', q, k), -1e9)
    read = jnp.einsum('nhqk,nkhd->nqhd', nn.softmax(scores), v)
    x = x + nn.Dense(width, name='o')(read.reshape(n, length, width))
    if self.after:
      x = self.norm(name='norm1')(x)
    h = x if self.after else self.norm(name='norm2')(x)
    act = getattr(nn, self.activation)
    inner = act(nn.Dense(24, name='gate')(h))
    if self.gated:
      inner = inner * nn.Dense(24, name='up')(h)
    return x + nn.Dense(width, name='down')(inner)


def filled(module, x, seed=0):
  """Params of module in which no gain is 1 and no bias 0."""
  noise = lambda w: w + 0.1 * jax.random.normal(jax.random.key(w.size), w.shape)
  made = lambda key: jax.tree.map(noise, module.init(key, x)['params'])
  return jax.jit(made)(jax.random.key(seed))
