"""The bundled model under the real ONNX Runtime."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from diptych.embed import session
from diptych.embed.manifest import load_model
from diptych.embed.mask import informative
from diptych.embed.prepare import prepare
from diptych.embed.session import BATCH, Embedder
from diptych.errors import ModelError


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(load_model(), threads=2)


def anatomy(seed: int, slices: int = 40) -> np.ndarray:
    """A body with organs, unlike that of any other seed."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[-1 : 1 : slices * 1j, -1:1:128j, -1:1:128j]
    body = (x / 0.85) ** 2 + (y / random.uniform(0.55, 0.8)) ** 2 < 1
    out = 0.4 * body
    for _ in range(14):
        centre, radius = random.uniform(-0.6, 0.6, 3), random.uniform(0.1, 0.4, 3)
        inside = (
            ((x - centre[0]) / radius[0]) ** 2
            + ((y - centre[1]) / radius[1]) ** 2
            + ((z - centre[2]) / (3 * radius[2])) ** 2
        ) < 1
        out[inside & body] = random.uniform(0.1, 1)
    return out.astype(np.float32)


def test_vectors_are_of_unit_length_and_of_the_manifests_dimension(embedder):
    vectors = embedder.embed(prepare(anatomy(0), 112))
    assert vectors.shape == (40, embedder.model.dimension) == (40, embedder.dimension)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_no_slices_give_no_vectors(embedder):
    assert embedder.embed(np.zeros((0, 112, 112), np.float32)).shape == (0, embedder.dimension)


def test_blank_slices_have_finite_vectors(embedder):
    assert np.isfinite(embedder.embed(np.zeros((2, 112, 112), np.float32))).all()


def test_a_slices_vector_does_not_depend_on_the_slices_beside_it(embedder):
    prepared = prepare(anatomy(1, slices=2 * BATCH + 7), 112)
    together = embedder.embed(prepared)
    alone = np.concatenate([embedder.embed(prepared[i : i + 1]) for i in range(len(prepared))])
    backwards = embedder.embed(prepared[::-1])[::-1]
    assert together.tobytes() == alone.tobytes()
    assert np.array_equal(together, backwards)


def test_the_number_of_threads_does_not_matter(embedder):
    prepared = prepare(anatomy(2), 112)
    single = Embedder(load_model(), threads=1)
    assert np.array_equal(single.embed(prepared), embedder.embed(prepared))


def test_a_second_session_gives_the_same_bits(embedder):
    prepared = prepare(anatomy(3), 112)
    assert np.array_equal(Embedder(load_model(), 2).embed(prepared), embedder.embed(prepared))


def test_a_turned_noisy_copy_is_nearer_than_a_stranger_and_within_d_max(embedder):
    original, stranger = anatomy(4), anatomy(5)
    copy = ndimage.rotate(original, 5, axes=(1, 2), reshape=False, order=1)
    copy = (copy + np.random.default_rng(0).normal(0, 0.02, copy.shape)).astype(np.float32)

    def vectors(volume: np.ndarray) -> np.ndarray:
        prepared = prepare(volume, 112)
        return embedder.embed(prepared[informative(prepared)])

    known = np.concatenate([vectors(original), vectors(stranger)])
    mine = len(vectors(original))
    query = vectors(copy)
    nearest = (query @ known.T).argmax(axis=1)
    distance = np.linalg.norm(query - known[nearest], axis=1)
    assert (nearest < mine).mean() > 0.9
    assert ((nearest < mine) & (distance <= embedder.model.d_max)).mean() >= 0.5


def test_slices_of_another_size_are_refused(embedder):
    with pytest.raises(ValueError, match=r"\(n, 112, 112\), found \(2, 64, 64\)"):
        embedder.embed(np.zeros((2, 64, 64), np.float32))


def test_the_provider_is_named(embedder):
    assert embedder.provider in ("CPUExecutionProvider", "CUDAExecutionProvider")


def test_a_runtime_for_cuda_without_a_device_says_that_it_fell_back(embedder, monkeypatch):
    assert not embedder.fell_back
    both = [session.CUDA, "CPUExecutionProvider"]
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: both)
    # ONNX Runtime itself still has none: it warns and runs on the CPU, as without a device.
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        assert Embedder(load_model(), threads=1).fell_back


def test_a_wrong_dimension_is_refused_in_words():
    model = load_model()
    with pytest.raises(ModelError, match=rf"\(n, 7\), the file says \(n, {model.dimension}\)"):
        Embedder(replace(model, dimension=7))


def test_a_wrong_input_size_is_refused_in_words():
    with pytest.raises(ModelError, match=r"input \(n, 1, 224, 224\), the file says \(n, 1, 112"):
        Embedder(replace(load_model(), input_size=224))


def test_wrong_channels_are_refused_in_words():
    three = replace(load_model(), channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(ModelError, match=r"input \(n, 3, 112, 112\)"):
        Embedder(three)


def test_a_wrong_checksum_is_refused_in_words():
    with pytest.raises(ModelError, match=f"expected sha256 {'0' * 64}, found"):
        Embedder(replace(load_model(), sha256="0" * 64))


def test_a_file_that_is_no_model_is_refused_in_words(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"not a graph")
    digest = hashlib.sha256(b"not a graph").hexdigest()
    with pytest.raises(ModelError, match="ONNX Runtime refuses it"):
        Embedder(replace(load_model(), path=path, sha256=digest))


def test_two_runtimes_in_one_environment_are_refused_with_the_repair(monkeypatch):
    monkeypatch.setattr(session.importlib.metadata, "version", lambda name: "1.0")
    with pytest.raises(ModelError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        session.refuse_two_runtimes()


def test_this_environment_has_one_runtime():
    session.refuse_two_runtimes()
    assert importlib.metadata.version("onnxruntime")
