"""What is installed: one top-level name, with the three linked folders inside it."""

import os
import pathlib
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LINKED = ("agents", "configs", "envs")
DECOYS = (*LINKED, "tests")


def run(*command, cwd, check=True):
    """Runs a command that sees no module path of this process."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def make_venv(folder):
    """A new environment that borrows this one's dependencies, but no editable install of ours."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = pathlib.Path(run(python, "-c", script, cwd=folder).stdout.strip())
    # Folders named in a .pth file come after site-packages, and .pth files in them are not read.
    borrowed = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return python, site


def install(python, *what):
    """Installs without dependencies, with the build tools of this environment."""
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps")
    run(*pip, "--no-index", "--no-build-isolation", *what, cwd=python.parent)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist, and the wheel built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    # Without --sdist or --wheel, build unpacks the sdist and builds the wheel from it.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Somebody's own project, whose folders have the names of ours."""
    folder = tmp_path_factory.mktemp("foreign")
    for name in DECOYS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise ImportError('decoy {name}')\n")
    return folder


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """Python and site-packages of a new environment that holds the wheel."""
    python, site = make_venv(tmp_path_factory.mktemp("wheel") / "venv")
    install(python, distributions[1])
    return python, site


def package_files():
    """Path inside loopwm/ of every module and data file in the tree, links followed."""
    found = set()
    for folder, _, names in os.walk(ROOT / "loopwm", followlinks=True):
        inside = pathlib.Path(folder).relative_to(ROOT)
        found |= {str(inside / n) for n in names if not n.endswith((".pyc", ".pyo"))}
    return found


def test_the_tree_links_to_the_three_folders():
    for name in LINKED:
        link = ROOT / "loopwm" / name
        assert link.is_symlink()
        assert os.readlink(link) == f"../{name}"
        assert (link / "__init__.py").is_file()


def test_the_sdist_holds_real_folders(distributions):
    with tarfile.open(distributions[0]) as archive:
        members = archive.getmembers()
    assert all(member.isfile() for member in members)
    names = {member.name.split("/", 1)[1] for member in members}
    assert package_files() <= names
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_the_wheel_holds_the_whole_package_and_no_other(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        names = archive.namelist()
    modules = {name for name in names if ".dist-info/" not in name}
    assert modules == package_files()
    assert len(names) == len(set(names))
    assert "loopwm/py.typed" in modules
    for preset in (ROOT / "configs").glob("*.yaml"):
        assert f"loopwm/configs/{preset.name}" in modules


def test_imports_from_a_foreign_folder(installed, foreign):
    python, site = installed
    script = """
        import pathlib, sys
        import loopwm, loopwm.agents, loopwm.configs, loopwm.envs
        for module in (loopwm, loopwm.agents, loopwm.configs, loopwm.envs):
            assert pathlib.Path(module.__file__).is_relative_to(sys.argv[1]), module.__file__
        try:
            import envs
        except ImportError as error:
            assert str(error) == "decoy envs", error
    """
    run(python, "-c", textwrap.dedent(script), site.resolve(), cwd=foreign)


@pytest.mark.parametrize("entry", [("loopwm",), ("python", "-m", "loopwm.cli.main")])
def test_the_command_runs_in_a_foreign_folder(installed, foreign, entry):
    program = installed[0].with_name(entry[0])
    done = run(program, *entry[1:], "--help", cwd=foreign)
    assert "train" in done.stdout


def test_an_editable_install_adds_the_name_loopwm_alone(foreign, tmp_path):
    python, _ = make_venv(tmp_path / "venv")
    install(python, "--editable", ROOT)
    script = f"""
        import importlib.util, pathlib
        import loopwm, loopwm.agents, loopwm.configs, loopwm.envs
        assert pathlib.Path(loopwm.__file__).parent == pathlib.Path({str(ROOT / "loopwm")!r})
        for name in {DECOYS!r}:
            assert importlib.util.find_spec(name) is None, name
    """
    run(python, "-c", textwrap.dedent(script), cwd=tmp_path)
    run(python, "-c", "import loopwm.agents, loopwm.configs, loopwm.envs", cwd=foreign)
