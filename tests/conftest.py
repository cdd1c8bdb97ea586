"""Set-up shared by all tests: CPU, strict shapes, checked annotations, seeded randomness."""

import gc
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator

# The environment variables reach the subprocesses that some tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# Most of the time goes into compilation, and this saves a third of it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from jaxtyping import PRNGKeyArray, install_import_hook  # noqa: E402

if any(name == "loopwm" or name.startswith("loopwm.") for name in sys.modules):
    raise RuntimeError("loopwm was imported before its annotations could be checked.")
# Every annotation of the package, shapes included, is checked at run time in tests.
install_import_hook("loopwm", "beartype.beartype")

jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile(
    "loopwm",
    deadline=None,  # the first example compiles
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("loopwm")

_REMEDY = re.compile(
    r"\b(give|use|pass|lower|raise|cast|load|restore|needs?|check|correct|install|choose|set|cap)\b",
    re.I,
)


@pytest.fixture
def key() -> PRNGKeyArray:
    """The same PRNG key for every test."""
    return jax.random.key(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same NumPy generator for every test, freshly seeded."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def filled() -> Callable[[Callable[[PRNGKeyArray], object]], object]:
    """Builds a module without compiling its initialisers: shapes from JAX, numbers from NumPy."""

    def build(builder: Callable[[PRNGKeyArray], object], seed: int = 0) -> object:
        rng = np.random.default_rng(seed)

        def fill(leaf: object) -> object:
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                return leaf
            values = rng.normal(size=leaf.shape) / np.sqrt(max((1, *leaf.shape[-1:])))
            return jnp.asarray(values, leaf.dtype)

        return jax.tree.map(fill, eqx.filter_eval_shape(builder, jax.random.key(seed)))

    return build


@pytest.fixture
def assert_helpful() -> Callable[[object], None]:
    """Checks that an error is one sentence and says what to do about it."""

    def check(raised: object) -> None:
        message = str(getattr(raised, "value", raised))
        assert message.endswith(".") and "\n" not in message, message
        assert len(re.findall(r"[.!?](?=\s|$)", message)) == 1, f"not one sentence: {message}"
        assert _REMEDY.search(message), f"no remedy: {message}"

    return check


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Drops compiled programs when they take up many of the process's memory maps.

    Each program holds some; Linux allows 65,530, and the compiler crashes beyond.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()
        gc.collect()


# Environments and fixtures of whole runs, shared by the folders below.
sys.path.insert(0, str(pathlib.Path(__file__).parent / "helpers"))
pytest_plugins = ["run_fixtures"]


@pytest.fixture
def without_type_checks():
    """As users run it: the types that tests check at run time are not."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
