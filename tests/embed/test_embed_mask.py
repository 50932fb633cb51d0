"""Which slices are informative: on made volumes and on real brains."""

from __future__ import annotations

import io

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from diptych.embed.mask import informative
from diptych.embed.prepare import prepare
from support import shared


def head(slices: int = 24, empty: int = 6) -> np.ndarray:
    """A textured ball in black air; ``empty`` black slices at the end."""
    z, y, x = np.mgrid[-1 : 0.6 : slices * 1j, -1:1:96j, -1:1:96j]
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=z.shape), 3)
    ball = (0.6 + 4 * texture) * (z**2 + (x / 0.8) ** 2 + (y / 0.7) ** 2 < 1)
    return np.concatenate([ball, np.zeros((empty, 96, 96))]).astype(np.float32)


def test_black_slices_are_masked_and_anatomy_is_not():
    mask = informative(prepare(head(), 112))
    assert not mask[-6:].any()
    assert mask[3:24].all()


def test_constant_planes_are_never_informative():
    voxels = head()
    voxels[5], voxels[6] = 0.7, 0
    mask = informative(prepare(voxels, 112))
    assert not mask[5]
    assert not mask[6]
    assert mask[7]


def test_a_constant_volume_has_no_informative_slice():
    assert not informative(prepare(np.full((4, 50, 50), 3, np.float32), 112)).any()


def test_a_volume_of_noise_has_no_informative_slice():
    noise = np.random.default_rng(1).normal(size=(20, 256, 256)).astype(np.float32)
    assert informative(prepare(noise, 112)).mean() <= 0.1


def test_one_bright_pixel_does_not_make_a_slice_informative():
    voxels = head()
    voxels[-1, 40, 40] = voxels.max()
    assert not informative(prepare(voxels, 112))[-1]


def test_a_single_slice_of_anatomy_is_informative():
    assert informative(prepare(head()[12:13], 112)).tolist() == [True]


def test_a_slice_with_an_artefact_does_not_mask_the_others():
    voxels = head(40)
    voxels[20] *= 20
    assert informative(prepare(voxels, 112))[5:38].mean() > 0.9


def test_no_slices_have_an_empty_mask():
    assert informative(np.zeros((0, 112, 112), np.float32)).shape == (0,)


def test_what_is_not_a_stack_of_slices_is_refused():
    with pytest.raises(ValueError, match="prepared slices"):
        informative(np.zeros((112, 112), np.float32))


def jpeg(unit: np.ndarray, quality: int) -> np.ndarray:
    planes = []
    for plane in np.rint(unit * 255).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(plane).save(file, "JPEG", quality=quality)
        planes.append(np.asarray(Image.open(file), np.float32))
    return np.stack(planes)


COPIES = {
    "noise 0.1": lambda v: v + np.random.default_rng(2).normal(0, 0.1, v.shape),
    "noise 0.2": lambda v: v + np.random.default_rng(2).normal(0, 0.2, v.shape),
    "blur in plane": lambda v: ndimage.gaussian_filter(v, (0, 2, 2)),
    "JPEG 25": lambda v: jpeg(v, 25),
    "rotation 5": lambda v: ndimage.rotate(v, 5, axes=(1, 2), reshape=False, order=1),
    "other contrast": lambda v: v**0.7,
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_real_brain_has_nearly_the_same_mask(name):
    image = nibabel.load(shared("volumes", "brain", "t1", "Subj1_T1.nii.gz"))
    voxels = np.asarray(image.dataobj, np.float32).transpose(2, 1, 0)
    voxels /= voxels.max()
    mask = informative(prepare(voxels, 112))
    copy = informative(prepare(COPIES[name](voxels).astype(np.float32), 112))
    assert 0.75 <= mask.mean() <= 0.9  # the air above the head, and hardly more
    assert (mask != copy).mean() <= 0.03
