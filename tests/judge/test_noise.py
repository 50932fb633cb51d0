"""The model of what noise becomes on a grid, against noise that went the whole way."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.judge import proxy
from diptych.judge.align import picture
from diptych.judge.compare import _Split
from diptych.judge.noise import white


@pytest.mark.parametrize(
    ("shape", "voxel", "step"),
    [
        ((80, 80, 80), (1.0, 1.0, 1.0), 1.0),  # every voxel is a cell
        ((87, 110, 110), (2.0, 2.0, 2.0), 3.0),  # cells share voxels
        ((87, 110, 110), (2.0, 2.0, 2.0), 4.0),  # and again on the way to the coarser grid
        ((20, 128, 128), (8.0, 3.75, 3.75), 4.0),  # a slice fills two cells
        ((60, 256, 256), (3.0, 0.9, 0.9), 3.0),  # a cell averages many pixels
    ],
)
def test_noise_falls_from_band_to_band_as_the_model_says(shape, voxel, step):
    noise = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(voxel)[::-1]
    kept = proxy.decode(proxy.encode(noise, affine))
    ready = picture(kept, step)
    bands = _Split(ready.values - ready.values[ready.mask].mean(), ready.mask).bands
    powers = np.array([float(band @ band) / len(band) for band in bands])
    expected = np.array(white(kept, step))
    # The finest three hold hundreds of blocks; the coarsest a few.
    assert powers[:3] / powers[0] == pytest.approx(expected[:3], rel=0.25)
