"""Data parallelism: a mesh of devices shares each batch, and everything else is on all of them."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from loopwm.errors import UsageError
from loopwm.training.config import LearnerConfig

Tree = TypeVar("Tree")

AXIS = "batch"
"""The mesh's one axis."""


def learner_mesh(config: LearnerConfig) -> Mesh | None:
    """The devices that share the learner's batches; None for one device.

    Args:
        config: with the number of devices.

    Returns:
        A mesh of one axis over the first devices that JAX has, of all processes.

    Raises:
        UsageError: there are fewer devices, some process would have none, or they cannot share
            the batch evenly.
    """
    if config.devices == 1:
        return None
    there = jax.devices()
    count = len(there) if config.devices is None else config.devices
    if count > len(there):
        raise UsageError(
            f"learner.devices is {count}, but JAX has {_number(len(there))} here; lower it (a run "
            "has it in its config.yaml), or set it to null for all of them."
        )
    if jax.process_count() > 1 and count < len(there):
        raise UsageError(
            f"learner.devices is {count}, but {jax.process_count()} processes have "
            f"{_number(len(there))}; set it to null for all of them, or to 1 for processes that "
            "learn by themselves."
        )
    config.check_shares(count)
    if count == 1:
        return None
    return Mesh(np.asarray(there[:count]), (AXIS,), axis_types=(AxisType.Auto,))


def check_devices(config: LearnerConfig) -> None:
    """Refuses devices that a whole run cannot learn on.

    Raises:
        UsageError: as `learner_mesh` does, or the devices belong to several processes.
    """
    if learner_mesh(config) is not None and jax.process_count() > 1:
        raise UsageError(
            f"learner.devices is {'null' if config.devices is None else config.devices}, but a run "
            f"learns in one process and JAX spans {jax.process_count()}; set it to 1, or call "
            "loopwm.training.update in each process as docs/scaling.md shows."
        )


def _number(devices: int) -> str:
    return "1 device" if devices == 1 else f"{devices} devices"


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """The tree with its arrays on every device of the mesh; untouched without a mesh.

    Of several processes, all have to call it with trees of the same shapes, and the arrays are
    those of process 0. What is on the mesh already is left alone.
    """
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    there, other = eqx.partition(tree, lambda x: _is_on(x, sharding))
    arrays, static = eqx.partition(other, lambda x: isinstance(x, jax.Array | np.ndarray))
    arrays = _of_process_0(arrays)

    def copied(array: Array) -> Array:
        copies = [jax.device_put(array, device) for device in mesh.local_devices]
        return jax.make_array_from_single_device_arrays(array.shape, sharding, copies)

    return eqx.combine(there, jax.tree.map(copied, arrays), static)


def _is_on(leaf: object, sharding: NamedSharding) -> bool:
    return isinstance(leaf, jax.Array) and leaf.sharding == sharding


def _of_process_0(arrays: Tree) -> Tree:
    """The arrays that process 0 has, on each process; random keys travel as their data."""
    if jax.process_count() == 1 or not jax.tree.leaves(arrays):
        return arrays
    is_key = jax.tree.map(_is_key, arrays)
    plain = jax.tree.map(lambda x, key: jax.random.key_data(x) if key else x, arrays, is_key)
    sent = multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, plain))
    return jax.tree.map(lambda x, key: jax.random.wrap_key_data(x) if key else x, sent, is_key)


def share(arrays: tuple[np.ndarray | Array, ...], mesh: Mesh) -> tuple[Array, ...]:
    """Batches with leading axes (updates, batch), the second one shared between the devices.

    Of several processes each one reads the rows of its own devices alone: with B rows and N
    devices, device n, counted over all processes, has rows n B/N … (n + 1) B/N − 1.
    """
    sharding = NamedSharding(mesh, PartitionSpec(None, AXIS))
    return tuple(
        jax.make_array_from_callback(x.shape, sharding, lambda index, x=x: x[index]) for x in arrays
    )


def keep_replicated(tree: Tree, mesh: Mesh | None) -> Tree:
    """Inside a program: has the compiler keep the tree's arrays whole on every device."""
    return tree if mesh is None else eqx.filter_shard(tree, NamedSharding(mesh, PartitionSpec()))


def on_one_device(tree: Tree) -> Tree:
    """A copy of the tree on one device of this process, JAX's default one.

    Args:
        tree: arrays on one device each, or the same on every device, as `update` returns them.

    Returns:
        The same values, to act with and to save.
    """

    def first(leaf):
        if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1:
            return leaf
        # By way of the host: a view of one device's copy is tied to this device, which other
        # arrays are not, and what takes both is compiled once more.
        here = leaf.addressable_data(0)
        if _is_key(here):
            data = jnp.asarray(np.array(jax.random.key_data(here)))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(here))
        return jnp.asarray(np.array(here))

    return jax.tree.map(first, tree)


def _is_key(array: Array | np.ndarray) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
