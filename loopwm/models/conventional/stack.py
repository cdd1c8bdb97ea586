"""The looped core's parts without its loop: each block is applied once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core import AbstractBlock, CoreConfig, LoopedCore, Prelude
from loopwm.core.looped import build_block
from loopwm.errors import UsageError
from loopwm.nn import SoftNorm


class StackCore(eqx.Module):
    r"""Prelude, n different blocks, coda.

    $$e = \mathrm{Prelude}(z, u), \quad h_0 = 0, \quad
    h_{t+1} = \bar a_t(e) \odot h_t + (1 - \bar a_t(e)) \odot g_t(h_t, e), \quad
    z' = \mathrm{Bound}(z + \mathrm{Coda}(h_n, e)),$$

    in mode `contractive`; the other modes differ in the blocks alone. Parts, bound and read-out
    are those of the looped world model, and one block with the looped core's weights gives what
    that core gives after one loop. A block is never applied twice, so there is no inner loop and
    no certificate of one.
    """

    prelude: Prelude
    blocks: tuple[AbstractBlock, ...]
    """g_0 … g_{n−1}, each with its retention ā."""
    coda: eqx.nn.Linear
    bound: SoftNorm

    def __init__(
        self, latent: int, action: int, config: CoreConfig, blocks: int, *, key: PRNGKeyArray
    ):
        """Builds the stack; of one key, prelude, first block and coda are those of `LoopedCore`.

        Args:
            latent: size of z.
            action: size of u.
            config: kind and width of the blocks.
            blocks: n.
            key: PRNG key.
        """
        first = LoopedCore(latent, action, config, key=key)
        self.prelude, self.coda = first.prelude, first.coda

        def further(number: int) -> AbstractBlock:
            own = jax.random.fold_in(key, number)
            key_retention, *keys = jax.random.split(own, 1 + config.layers)
            return build_block(config, key_retention=key_retention, keys=tuple(keys))

        self.blocks = (first.block, *(further(number) for number in range(1, blocks)))
        self.bound = SoftNorm(float(np.sqrt(latent)))

    def __call__(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> Float[Array, " latent"]:
        """z' of shape (latent,)."""
        e = self.prelude(z, u)
        updates = [block.bind(e) for block in self.blocks]
        h = updates[0].start()
        for update in updates:
            h = update(h)
        return self.bound(z + self.coda(jnp.concatenate([h, e])))


def check_no_gate(config: CoreConfig) -> None:
    """Raises UsageError for a core with a halting gate, which would have nothing to halt."""
    if config.gate:
        raise UsageError(
            "model.core.gate is true, but this model has no loop to halt; set it to false."
        )
