"""What the built distributions contain and require. Builds in a copy, without a network."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(p.parent.name for p in (ROOT / "packages").glob("*/pyproject.toml"))
# Required, but reached without an import statement: ninja by torch's extension builder, rich and
# wandb by Lightning's progress bar and logger, nilearn's data files by find_spec.
NOT_IMPORTED = {"nilearn", "ninja", "rich", "wandb"}
JUNK = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "*.so")

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with an empty .git: builds must not write into the real tree."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "packages", copy / "packages", ignore=JUNK)
    (copy / ".git").mkdir()
    return copy


def build_wheel(source: Path, out: Path, *, release: bool) -> zipfile.ZipFile:
    environment = {k: v for k, v in os.environ.items() if k != "SAGITTAL_NO_LOCAL_DEPS"}
    if release:
        environment["SAGITTAL_NO_LOCAL_DEPS"] = "1"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(out), str(source)], check=True, env=environment)
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel)


def metadata(wheel: zipfile.ZipFile) -> str:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    return wheel.read(name).decode()


def requirements(wheel: zipfile.ZipFile) -> list[Requirement]:
    lines = Parser().parsestr(metadata(wheel)).get_all("Requires-Dist") or []
    return [Requirement(line) for line in lines]


@pytest.fixture(scope="module")
def release(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    """One release wheel a package."""
    out = tmp_path_factory.mktemp("wheels")
    return {p: build_wheel(checkout / "packages" / p, out / p, release=True) for p in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_release_wheel_is_complete_and_names_no_local_path(
    release: dict[str, zipfile.ZipFile], package: str
) -> None:
    names = release[package].namelist()
    assert f"sagittal_{package}/__init__.py" in names
    assert f"sagittal_{package}/py.typed" in names
    assert not [n for n in names if n.endswith(".pth")]
    (licence,) = (n for n in names if n.endswith("/licenses/LICENSE"))
    assert release[package].read(licence) == (ROOT / "LICENSE").read_bytes()
    assert "file://" not in metadata(release[package])


def test_checkout_keeps_core_live(checkout: Path, tmp_path: Path) -> None:
    core = build_wheel(checkout / "packages/core", tmp_path / "core", release=False)
    assert [n for n in core.namelist() if n.endswith(".pth")]
    assert "sagittal_core/__init__.py" not in core.namelist()
    mri = build_wheel(checkout / "packages/mri", tmp_path / "mri", release=False)
    assert f"sagittal-core @ {(checkout / 'packages/core').as_uri()}" in metadata(mri)


def test_ranges_contain_the_siblings_version(release: dict[str, zipfile.ZipFile]) -> None:
    versions = {
        f"sagittal-{p}": Parser().parsestr(metadata(wheel))["Version"]
        for p, wheel in release.items()
    }
    siblings = [r for w in release.values() for r in requirements(w) if r.name in versions]
    assert siblings
    for requirement in siblings:
        assert requirement.specifier.contains(versions[requirement.name]), str(requirement)


def test_compromised_lightning_releases_are_excluded(
    release: dict[str, zipfile.ZipFile],
) -> None:
    found = [r for w in release.values() for r in requirements(w) if "lightning" in r.name]
    assert found
    for requirement in found:
        assert not requirement.specifier.contains("2.6.2")
        assert not requirement.specifier.contains("2.6.3")


def test_no_build_requires_torch() -> None:
    for file in [ROOT / "pyproject.toml", *ROOT.glob("packages/*/pyproject.toml")]:
        table = tomllib.loads(file.read_text())
        names = {Requirement(r).name for r in table["build-system"]["requires"]}
        assert "torch" not in names, file


def test_kernels_sdist_contains_every_source(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc", ignore=JUNK)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    code = "from setuptools import build_meta as b; b.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    (sdist,) = (tmp_path / "dist").glob("sagittal_kernels-*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = {p.relative_to(tmp_path).as_posix() for p in (tmp_path / "csrc").rglob("*.*")}
    assert "csrc/build_config.py" in wanted
    assert wanted <= packed


def imported_distributions(package: str) -> set[str]:
    """Distributions whose modules the package's sources import, from anywhere in a file."""
    modules: set[str] = set()
    for file in (ROOT / "packages" / package / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.split(".")[0])
    modules -= {*sys.stdlib_module_names, f"sagittal_{package}", "sagittal_kernels"}
    known = importlib.metadata.packages_distributions()
    return {canonicalize_name(known.get(m, [m])[0]) for m in modules}


@pytest.mark.parametrize("package", PACKAGES)
def test_requirements_are_what_the_code_imports(
    release: dict[str, zipfile.ZipFile], package: str
) -> None:
    imported = imported_distributions(package)
    declared = {canonicalize_name(r.name) for r in requirements(release[package])}
    # What core requires, every domain has: torch and lightning are named once.
    inherited = {canonicalize_name(r.name) for r in requirements(release["core"])}
    assert imported <= declared | inherited
    needed = {canonicalize_name(r.name) for r in requirements(release[package]) if not r.marker}
    assert needed <= imported | NOT_IMPORTED
