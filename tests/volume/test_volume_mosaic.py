"""Siemens mosaics, checked against nibabel's own reading of the same data set."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_factory import dicom_slice, pixels
from diptych.volume.instance import Instance, decode_file
from diptych.volume.plan import plan
from support import shared

TILES, ROWS, COLUMNS = 7, 8, 8


def mosaic(number_of_images: int | None) -> tuple[Dataset, list[np.ndarray]]:
    tiles = [pixels(n, ROWS, COLUMNS, np.uint16) + 1 for n in range(TILES)]
    image = np.zeros((3 * ROWS, 3 * COLUMNS), np.uint16)
    for n, tile in enumerate(tiles):
        row, column = divmod(n, 3)
        image[row * ROWS : (row + 1) * ROWS, column * COLUMNS : (column + 1) * COLUMNS] = tile
    ds = dicom_slice(image, Modality="MR", Manufacturer="SIEMENS", SpacingBetweenSlices=4.0)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    if number_of_images is not None:
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", number_of_images)
    else:
        ds.AcquisitionMatrix = [COLUMNS, 0, 0, ROWS]
    return ds, tiles


def test_a_mosaic_is_cut_into_its_slices(planned):
    ds, tiles = mosaic(TILES)
    (stack,) = planned([ds]).stacks
    assert stack.geometry == "known"
    assert stack.spacing_mm == pytest.approx(4.0)
    assert len(stack.slices) == TILES
    assert all((p.stored == t).all() for p, t in zip(stack.slices, tiles, strict=True))


def test_a_mosaic_without_private_elements_is_cut_by_its_acquisition_matrix(planned):
    ds, tiles = mosaic(None)
    (stack,) = planned([ds]).stacks
    assert stack.geometry == "inferred"
    assert all((p.stored == t).all() for p, t in zip(stack.slices, tiles, strict=True))


def test_mosaics_of_one_series_are_the_frames_of_one_stack(planned):
    first, _ = mosaic(TILES)
    second, _ = mosaic(TILES)
    second.InstanceNumber = 2
    second.PixelData = (np.frombuffer(second.PixelData, np.uint16) + 1).tobytes()
    (stack,) = planned([second, first]).stacks
    assert [len(frame) for frame in stack.frames] == [TILES, TILES]
    assert stack.slices[0].InstanceNumber == 1


def test_positions_and_tiles_of_real_mosaics_agree_with_nibabel():
    from nibabel.nicom import dicomwrappers
    from pydicom import dcmread

    folder = shared("dicom", "neurolabusc__dcm_qa_nih")
    checked = 0
    for path in sorted(folder.rglob("*.dcm")):
        outcome = decode_file(path)
        assert isinstance(outcome, Instance)
        if "MOSAIC" not in outcome.planes[0].ImageType:
            continue
        wrapper = dicomwrappers.wrapper_from_data(dcmread(path))
        volume = wrapper.get_unscaled_data()
        step = wrapper.slice_normal * wrapper.voxel_sizes[2]
        for number, plane in enumerate(outcome.planes):
            expected = wrapper.image_position + number * step
            assert plane.ImagePositionPatient == pytest.approx(expected, abs=1e-3)
            assert (plane.stored == volume[..., number]).all()
        (stack,) = plan([outcome]).stacks
        assert len(stack.slices) == len(outcome.planes)
        checked += 1
    assert checked
