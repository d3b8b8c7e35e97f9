"""The wheel, built through the sdist and installed outside the checkout, is complete."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command that must succeed, away from the checkout's environment, and returns what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "HWNAS"))}
    environment["HWNAS_HOME"] = str(cwd / "home")
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, CHECKOUT, cwd=out)
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment, outside the checkout, that holds the wheel and borrows all other packages from the running one."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    (wheel,) = built.glob("*.whl")
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    # A .pth file that lists a folder does not run the .pth files inside that folder, so the editable install stays behind.
    (site,) = home.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def test_the_sdist_holds_what_the_wheel_is_made_from(built: Path) -> None:
    """The asset trees, the licence and the build file travel in the sdist; tests and caches do not."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"pyproject.toml", "LICENSE", "README.md", "hwnas/py.typed", "kernels/README.md"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "bench/", ".venv/")) or name.endswith(".pyc")]


def test_the_wheel_holds_every_file_of_the_package(built: Path) -> None:
    """No module, template or asset of the checkout is missing, and nothing outside `hwnas/` is installed."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = run("git", "-C", CHECKOUT, "ls-files", "hwnas", "kernels", "profiles", "predictors", cwd=built).split()
    expected = {name if name.startswith("hwnas/") else f"hwnas/_assets/{name}" for name in tracked if (CHECKOUT / name).is_file()}
    assert expected <= names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"hwnas"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_installed_package_is_the_wheel_and_finds_its_assets(installed: Path) -> None:
    """`hwnas` is imported from the new environment, and `assets.root` points into it."""
    script = (
        "import hwnas, hwnas.assets as a; print(hwnas.__file__, *(a.root(t) for t in ('kernels', 'profiles', 'predictors')), sep='\\n')"
    )
    paths = [Path(line) for line in run(installed / "bin" / "python", "-c", script, cwd=installed).splitlines()]
    assert len(paths) == 4
    for path in paths:
        assert path.exists()
        assert path.is_relative_to(installed)


def test_the_installed_command_runs(installed: Path) -> None:
    """`hwnas --help` lists the verbs, and `hwnas devices` knows the CPU, with no checkout in sight."""
    assert "profile" in run(installed / "bin" / "hwnas", "--help", cwd=installed)
    assert "cpu" in run(installed / "bin" / "hwnas", "devices", cwd=installed)
