"""The images and the compose file: linted, and in step with the package and its locks.

Nothing here runs a container: that takes an engine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from diptych import __version__
from diptych.config import load
from support import REPOSITORY, missing

DOCKER = REPOSITORY / "deploy" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text("utf-8")


def _compose() -> dict[str, Any]:
    found = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))
    return dict(found)


def _pinned(lock: Path) -> dict[str, set[str]]:
    """Versions by name; a lock for several Pythons has more than one of some."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^ ]+)", lock.read_text("utf-8"), re.M):
        found.setdefault(name, set()).add(version)
    return found


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/bin") or (
        shutil.which("hadolint") or missing("hadolint (make setup)")
    )
    done = subprocess.run(
        [hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("name", ["cpu", "cuda", "build"])
def test_an_image_has_the_versions_that_are_tested(name: str) -> None:
    tested, image = _pinned(REPOSITORY / "requirements.lock"), _pinned(DOCKER / f"{name}.lock")
    only_there = {n for n in image if n not in tested}
    assert all(n.startswith("nvidia-") or n == "onnxruntime-gpu" for n in only_there)
    for package in image.keys() - only_there:
        assert image[package] <= tested[package], package


def test_every_package_of_an_image_has_a_hash_and_no_image_has_both_runtimes() -> None:
    for name in ("cpu", "cuda"):
        pinned = _pinned(DOCKER / f"{name}.lock")
        assert len({"onnxruntime", "onnxruntime-gpu"} & pinned.keys()) == 1
        assert "pytest" not in pinned
        assert "pg8000" in pinned
        text = (DOCKER / f"{name}.lock").read_text("utf-8")
        entries = re.split(r"\n(?=[a-z0-9])", text.partition("\n    make lock\n")[2] or text)
        assert all("--hash=sha256:" in e for e in entries if "==" in e)


def test_cuda_and_cpu_run_the_same_version_of_onnx_runtime() -> None:
    cpu, cuda = _pinned(DOCKER / "cpu.lock"), _pinned(DOCKER / "cuda.lock")
    assert cpu["onnxruntime"] == cuda["onnxruntime-gpu"]


def test_the_wheel_is_built_by_what_pyproject_asks_for() -> None:
    (wanted,) = re.findall(r'requires = \["hatchling==(.*?)"\]', _text("pyproject.toml"))
    assert _pinned(DOCKER / "build.lock")["hatchling"] == {wanted}


def test_what_the_wheel_is_made_of_reaches_the_build() -> None:
    kept = [line[1:] for line in _text(".dockerignore").splitlines() if line.startswith("!")]
    for source in ("daemon", "sql", "models/manifest.toml", "models/bundled", "pyproject.toml"):
        assert source in kept
        assert (REPOSITORY / source).exists()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M)
    for one in " ".join(copied).replace("${RUNTIME}", "cpu").split():
        assert any(k.startswith(one) or Path(one).match(k) for k in kept), one


def test_the_image_runs_as_nobody_in_particular_and_the_compose_file_agrees() -> None:
    assert "\nUSER 10001:10001\n" in DOCKERFILE
    daemon = _compose()["services"]["diptych"]
    assert daemon["user"] == "10001:10001"
    assert daemon["read_only"] is True
    assert daemon["cap_drop"] == ["ALL"]
    assert daemon["image"] == f"diptych:{__version__}"


def test_what_the_compose_file_mounts_is_there_but_for_the_secrets() -> None:
    compose = _compose()
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
            else:
                assert source in compose["volumes"]
    rules = yaml.safe_load((DOCKER / "prometheus.yml").read_text("utf-8"))["rule_files"]
    assert [Path(rule).name for rule in rules] == ["diptych.rules.yml"]
    assert (REPOSITORY / "deploy" / "prometheus" / "diptych.rules.yml").exists()


def test_the_daemon_reads_the_configuration_of_the_compose_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in _compose()["services"]["diptych"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{.*?\}", "secret", value))
    loaded = load(DOCKER / "diptych.toml")
    assert loaded.dicom.is_open
    assert loaded.http.is_open
    assert [source.name for source in loaded.source] == ["router"]


def _text(name: str) -> str:
    return (REPOSITORY / name).read_text("utf-8")
