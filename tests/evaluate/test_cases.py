"""Which inputs become cases, as what, and in which half."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import BasicTextSRStorage

from dicom_factory import dicom_slice, save
from diptych.errors import UsageError
from diptych.evaluate.cases import Case, Listing, find, halves, read_pairs, read_subjects
from diptych.evaluate.reading import Unreadable
from diptych.volume.decoders import DecoderPool
from diptych.volume.orient import canonical_slices
from evaluate.volumes import body, save_dicom, save_itk, save_nifti
from support import shared


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    with DecoderPool() as pool:
        yield pool


def only(folder: Path) -> Case:
    (case,) = find(folder).cases
    return case


def refusal(folder: Path, decoders: DecoderPool) -> str:
    with pytest.raises(Unreadable) as caught:
        only(folder).read(decoders)
    return str(caught.value)


def named(*ids: str) -> list[Case]:
    """Cases that exist by name only, in path order."""
    return [Case(id_, PurePosixPath(id_).parent, "nifti", (Path(id_),)) for id_ in ids]


def ids(cases: list[Case]) -> list[str]:
    return [case.id for case in cases]


# what is read


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_every_format_gives_the_same_volume(
    tmp_path: Path, decoders: DecoderPool, name: str
) -> None:
    array = body(1)
    (save_nifti if ".nii" in name else save_itk)(tmp_path / name, array)
    reading = only(tmp_path).read(decoders)
    oriented = canonical_slices(reading.volume)
    np.testing.assert_array_equal(oriented.array, array.astype(np.float32))
    assert reading.volume.oriented


def test_a_dicom_series_and_the_nifti_of_its_stored_values_have_one_digest(
    tmp_path: Path, decoders: DecoderPool
) -> None:
    array = body(2)
    save_dicom(tmp_path / "d" / "series", array, "1.2.3")
    save_nifti(tmp_path / "n" / "a.nii.gz", array)
    dicom, nifti = (case.read(decoders) for case in find(tmp_path).cases)
    assert dicom.digest == nifti.digest is not None
    np.testing.assert_array_equal(
        canonical_slices(dicom.volume).array, canonical_slices(nifti.volume).array
    )


def test_slices_of_a_nifti_are_its_third_axis_turned_to_the_closest_lps_axes(
    tmp_path: Path, decoders: DecoderPool
) -> None:
    array = body(3)
    # RAS: columns to the right, rows to the front; both are flipped.
    save_nifti(tmp_path / "ras.nii.gz", array, np.diag([2.0, 2.0, 3.0, 1.0]))
    reading = only(tmp_path).read(decoders)
    oriented = canonical_slices(reading.volume)
    np.testing.assert_array_equal(oriented.array, array[:, ::-1, ::-1].astype(np.float32))
    assert oriented.spacing == (3.0, 2.0, 2.0)


@pytest.mark.parametrize("row", [(0, 0, 0, 0), (np.nan, 1, 0, 0), (-1, 0, 0, 0)])
def test_a_nifti_without_a_usable_affine_is_read_as_it_lies(
    tmp_path: Path, decoders: DecoderPool, row: tuple[float, ...]
) -> None:
    array = body(4)
    path = save_nifti(tmp_path / "flat.nii", array)
    content = bytearray(path.read_bytes())
    content[296:312] = np.array(row, "<f4").tobytes()  # srow_y
    path.write_bytes(content)
    reading = only(tmp_path).read(decoders)
    assert not reading.volume.oriented
    np.testing.assert_array_equal(reading.volume.array, array)


def test_scaled_nifti_values_are_rescaled_and_the_digest_is_of_the_stored_ones(
    tmp_path: Path, decoders: DecoderPool
) -> None:
    array = body(5)
    save_nifti(tmp_path / "a.nii", array)
    plain = only(tmp_path).read(decoders)
    image = nibabel.load(tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:120] = np.array([2.0, -5.0], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(content)
    scaled = only(tmp_path).read(decoders)
    assert image.shape == (36, 40, 12)
    assert scaled.digest == plain.digest
    np.testing.assert_allclose(scaled.volume.array, 2 * plain.volume.array - 5)


@pytest.mark.parametrize("name", ["four.nii.gz", "four.mha", "four.nrrd"])
def test_of_a_4d_file_the_first_volume_is_the_case(
    tmp_path: Path, decoders: DecoderPool, name: str
) -> None:
    volumes = [body(6), body(7)]
    if name.endswith(".nii.gz"):
        stacked = np.stack([v.transpose(2, 1, 0) for v in volumes], axis=-1)
        nibabel.save(nibabel.Nifti1Image(stacked, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / name)
    else:
        joined = sitk.JoinSeries([sitk.GetImageFromArray(v) for v in volumes])
        sitk.WriteImage(joined, str(tmp_path / name))
    reading = only(tmp_path).read(decoders)
    np.testing.assert_array_equal(canonical_slices(reading.volume).array, volumes[0])


def test_what_is_not_finite_is_no_voxel(tmp_path: Path, decoders: DecoderPool) -> None:
    array = body(8).astype(np.float32)
    array[1, 2, 3], array[3, 4, 5] = np.nan, np.inf
    save_nifti(tmp_path / "a.nii.gz", array)
    volume = only(tmp_path).read(decoders).volume
    assert volume.valid is not None
    assert int((~volume.valid).sum()) == 2
    assert volume.array.min() == body(8).min()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((1, 40, 40), np.int16), "not-3d"),
        (np.zeros((12, 15, 40), np.int16), "too-small"),
        (np.zeros((2, 40, 40), np.int16), "too-small"),
        (np.full((12, 40, 40), 7, np.int16), "empty"),
        (np.full((12, 40, 40), np.nan, np.float32), "empty"),
        (np.zeros((12, 40, 40), np.complex64), "not-scalar"),
        (
            np.zeros((12, 40, 40), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])),
            "colour",
        ),
    ],
    ids=["2D", "narrow", "two slices", "constant", "all NaN", "complex", "RGB"],
)
def test_a_nifti_that_is_no_case_has_a_named_reason(
    tmp_path: Path, decoders: DecoderPool, array: np.ndarray, reason: str
) -> None:
    save_nifti(tmp_path / "a.nii.gz", array)
    assert refusal(tmp_path, decoders).startswith(f"{reason}: ")


def test_a_truncated_file_is_unreadable_in_every_format(
    tmp_path: Path, decoders: DecoderPool
) -> None:
    for name in ("a.nii", "b.nii.gz", "c.nrrd", "d.mha"):
        path = (save_nifti if ".nii" in name else save_itk)(tmp_path / name, body(1))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for name in ("e.nii.gz", "f.nrrd", "g.mha", "h.nii"):
        (tmp_path / name).write_bytes(b"")
    cases = find(tmp_path).cases
    assert len(cases) == 8
    for case in cases:
        with pytest.raises(Unreadable, match=r"^unreadable: "):
            case.read(decoders)


def test_a_nifti_that_declares_more_than_it_may_is_too_large(
    tmp_path: Path, decoders: DecoderPool
) -> None:
    path = save_nifti(tmp_path / "a.nii", body(1))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()  # dim[1..3]
    path.write_bytes(content)
    assert refusal(tmp_path, decoders).startswith("too-large: ")


def test_a_refused_direction_is_said(tmp_path: Path, decoders: DecoderPool) -> None:
    header = (
        "NRRD0005\ntype: short\ndimension: 3\nsizes: 20 21 20\nkinds: domain domain domain\n"
        "space: left-posterior-superior\nspace directions: (1,0,0) (1,0,0) (0,0,2)\n"
        "space origin: (0,0,0)\nendian: little\nencoding: raw\n\n"
    )
    pixels = np.arange(20 * 21 * 20, dtype="<i2").tobytes()
    (tmp_path / "a.nrrd").write_bytes(header.encode() + pixels)
    assert refusal(tmp_path, decoders).startswith("direction-refused: ")


def test_a_colour_image_is_no_case(tmp_path: Path, decoders: DecoderPool) -> None:
    colours = np.zeros((12, 40, 36, 3), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "a.mha"))
    assert refusal(tmp_path, decoders).startswith("colour: ")


def test_a_report_among_the_slices_is_named_and_left_out(
    tmp_path: Path, decoders: DecoderPool
) -> None:
    save_dicom(tmp_path / "series", body(1), "1.2.3")
    document = dicom_slice(SeriesInstanceUID="1.2.3", SOPClassUID=BasicTextSRStorage)
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(document, keyword)
    save(document, tmp_path / "series" / "report.dcm")
    reading = only(tmp_path).read(decoders)
    assert len(reading.volume.array) == 12
    ((path, reason, image),) = reading.left_out
    assert (path.name, image) == ("report.dcm", False)
    assert reason.startswith("not-an-image")


# what is found


def test_every_file_is_a_case_unreadable_or_named_as_no_image(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", body(1))
    save_itk(tmp_path / "sub" / "b.nhdr", body(2))
    save_dicom(tmp_path / "series", body(3), "1.2.3")
    (tmp_path / "labels.csv").write_text("case,subject\n")
    (tmp_path / "._a.nii.gz").write_bytes(b"x")
    (tmp_path / "broken.dcm").write_text("nothing of the kind")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.nii")
    found = find(tmp_path)
    assert ids(list(found.cases)) == ["a.nii.gz", "series", "sub/b.nhdr"]
    assert [path for path, _ in found.unreadable] == ["broken.dcm", "link.nii.gz", "pipe.nii"]
    assert [path for path, _ in found.others] == ["._a.nii.gz", "labels.csv", "sub/b.raw"]


def test_two_series_in_one_folder_are_two_cases_named_by_their_first_files(
    tmp_path: Path,
) -> None:
    first = save_dicom(tmp_path / "both", body(1), "1.2.3")
    for number, path in enumerate(save_dicom(tmp_path / "tmp", body(2), "1.2.4")):
        path.rename(tmp_path / "both" / f"z{number:03}.dcm")
    cases = find(tmp_path).cases
    assert ids(list(cases)) == ["both/0000.dcm", "both/z000.dcm"]
    assert [len(case.paths) for case in cases] == [len(first), 12]


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    save_nifti(tmp_path / "real" / "a.nii.gz", body(1))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b.nii.gz").symlink_to(tmp_path / "real" / "a.nii.gz")
    (folder / "loop").symlink_to(folder)
    (folder / "other").symlink_to(tmp_path / "real")
    assert ids(list(find(folder).cases)) == ["b.nii.gz", "other/a.nii.gz"]


def test_what_the_command_writes_below_the_folder_is_passed_over(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", body(1))
    save_nifti(tmp_path / "out" / "b.nii.gz", body(2))
    (tmp_path / "figures.json").write_text("{}")
    found = find(tmp_path, without=(tmp_path / "out", tmp_path / "figures.json"))
    assert found == Listing(found.cases, (), ())
    assert ids(list(found.cases)) == ["a.nii.gz"]


# halves


def test_each_leaf_folder_is_halved_in_path_order_and_an_odd_one_out_is_a_stranger() -> None:
    cases = named("a/1", "a/2", "a/3", "a/4", "a/5", "b/1", "b/2")
    database, strangers = halves(cases)
    assert ids(database) == ["a/1", "a/2", "b/1"]
    assert ids(strangers) == ["a/3", "a/4", "a/5", "b/2"]


def test_folders_of_one_case_are_pooled_with_their_siblings() -> None:
    cases = named("p1/study/s/x", "p2/study/s/x", "p3/study/s/x", "p4/study/s/x")
    database, strangers = halves(cases)
    assert ids(database) == ["p1/study/s/x", "p2/study/s/x"]
    assert ids(strangers) == ["p3/study/s/x", "p4/study/s/x"]


def test_a_pool_of_two_climbs_no_further() -> None:
    cases = named("p1/a/x", "p1/b/x", "p2/a/x", "p3/a/x")
    database, strangers = halves(cases)
    assert ids(database) == ["p1/a/x", "p2/a/x"]
    assert ids(strangers) == ["p1/b/x", "p3/a/x"]


def test_a_lone_case_of_a_folder_is_a_stranger() -> None:
    assert halves(named("x/1"))[0] == []


def test_all_images_of_a_subject_go_where_the_first_one_goes() -> None:
    cases = named("a/1", "a/2", "a/3", "a/4", "b/1", "b/2")
    database, strangers = halves(cases, {"a/1": "s", "a/4": "s", "a/3": "t", "b/1": "t"})
    assert ids(database) == ["a/1", "a/2", "a/4"]
    assert ids(strangers) == ["a/3", "b/1", "b/2"]


# tables


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    save_nifti(tmp_path / "in" / "a.nii.gz", body(1))
    save_dicom(tmp_path / "in" / "series", body(3), "1.2.3")
    (tmp_path / "in" / "notes.txt").write_text("none")
    return find(tmp_path / "in")


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_subjects_are_named_by_case_or_by_any_dicom_file(tmp_path: Path, listing: Listing) -> None:
    file = table(tmp_path, "subject,case\ns,a.nii.gz\nt,series/0003.dcm\nu,notes.txt\n")
    assert read_subjects(file, listing) == {"a.nii.gz": "s", "series": "t"}


def test_known_pairs_are_read_in_both_columns(tmp_path: Path, listing: Listing) -> None:
    file = table(tmp_path, "\ufeffa,b\na.nii.gz,./series\n")
    assert read_pairs(file, listing) == [("a.nii.gz", "series")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case;subject\n", "heading line case,subject"),
        ("", "heading line case,subject"),
        ("case,subject\nb.nii.gz,s\n", "b.nii.gz is no case below the folder"),
        ("case,subject\na.nii.gz,\n", "line 2 lacks one of case,subject"),
        ("case,subject\na.nii.gz,s\na.nii.gz,t\n", "two subjects"),
    ],
)
def test_a_wrong_table_is_refused_in_words(
    tmp_path: Path, listing: Listing, text: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        read_subjects(table(tmp_path, text), listing)


# real data


def test_the_real_dicom_folders_are_accounted_for(decoders: DecoderPool) -> None:
    folder = shared("dicom", "pydicom__pydicom")
    found = find(folder)
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    in_cases = sum(len(case.paths) for case in found.cases)
    assert in_cases + len(found.unreadable) + len(found.others) == files
    read = 0
    for case in found.cases:
        with contextlib.suppress(Unreadable):
            read += len(case.read(decoders).volume.array) >= 3
    assert read >= 2


def test_real_nrrd_files_are_read(decoders: DecoderPool) -> None:
    cases = find(shared("volumes", "mixed", "pyradiomics")).cases
    assert [case.read(decoders).volume.array.shape for case in cases] == [
        (21, 120, 45),
        (13, 67, 82),
    ]
