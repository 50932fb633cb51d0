"""Archives are read where they are, and what attacks is refused by a reason of its own."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import stat
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.intake.entry import Entry
from diptych.intake.limits import Limits
from diptych.intake.look import look
from intake.deliveries import looked_at, outcomes, tarred, zipped

PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
SMALL = {"free_bytes": 1 << 16}


def reasons(found):
    return {name: f"{each.status}: {each.reason}".rstrip(": ") for name, each in found.items()}


@pytest.mark.parametrize("packing", ["", "gz", "bz2", "xz"])
def test_members_of_a_tar_are_found_however_it_is_packed(packing, one_slice, tmp_path):
    found = looked_at(tarred({"a/1": one_slice, "a/2": one_slice}, packing), "d.tar", tmp_path)
    assert reasons(found) == {"a/1": "readable", "a/2": "readable", "": "opened"}
    assert found[""].members == 2
    assert found["a/1"].size == len(one_slice)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_zip_in_a_tar_in_a_zip_is_read(method, one_slice, tmp_path):
    inner = zipped({"3": one_slice, "notes.txt": b"hello"}, method)
    whole = zipped({"x/y.tgz": tarred({"z.zip": inner}, "gz")})
    found = looked_at(whole, "d.zip", tmp_path)
    assert reasons(found) == {
        "x/y.tgz!/z.zip!/3": "readable",
        "x/y.tgz!/z.zip!/notes.txt": "not-an-image: other",
        "x/y.tgz!/z.zip": "opened",
        "x/y.tgz": "opened",
        "": "opened",
    }
    assert found["x/y.tgz!/z.zip!/3"].at == "0/0/0"


@pytest.mark.parametrize("packing", PACKERS)
def test_a_packed_file_is_an_archive_of_one(packing, one_slice, tmp_path):
    found = looked_at(PACKERS[packing](one_slice), f"1.dcm.{packing}", tmp_path)
    assert reasons(found) == {"1.dcm": "readable", "": "opened"}
    assert found["1.dcm"].size == len(one_slice)


def test_archives_nested_deeper_than_the_limit_are_refused_and_their_neighbours_read(
    one_slice, tmp_path
):
    content = one_slice
    for _ in range(5):
        content = zipped({"in": content, "beside": one_slice})
    found = looked_at(content, "d.zip", tmp_path, depth=4)
    assert found["in!/in!/in!/beside"].status == "readable"
    assert found["in!/in!/in!/in"].reason == "nested-too-deep"
    assert "in!/in!/in!/in!/in" not in found


@pytest.mark.parametrize("packing", PACKERS)
def test_a_bomb_is_stopped_soon_after_the_ratio_is_exceeded(packing, tmp_path):
    bomb = PACKERS[packing](bytes(64 << 20))
    found = looked_at(bomb, "bomb.tar", tmp_path, **SMALL)
    assert "expands-too-much" in {each.reason for each in found.values()}
    assert not any(
        each.status == "readable" or (each.size or 0) > 1 << 20 for each in found.values()
    )


def test_a_bomb_in_a_zip_costs_its_neighbours_nothing(one_slice, tmp_path):
    content = zipped({"bomb": bytes(32 << 20), "1": one_slice, "2": one_slice})
    found = looked_at(content, "d.zip", tmp_path, **SMALL)
    assert reasons(found) == {
        "bomb": "refused: expands-too-much", "1": "readable", "2": "readable", "": "opened",
    }  # fmt: skip


def test_a_zip_whose_members_overlap_is_refused_by_what_they_claim_together(tmp_path):
    block = random.Random(0).randbytes(1 << 16)
    whole = bytearray(zipped({f"{n:04d}": block for n in range(2)}))
    end = whole.rfind(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<HII", whole, end + 10)
    first = bytes(whole[start : start + size // count])
    directory = b"".join(first.replace(b"0000", f"{n:04d}".encode()) for n in range(2000))
    local = bytes(whole[:start])
    ending = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2000, 2000, len(directory), start, 0)
    found = looked_at(local + directory + ending, "d.zip", tmp_path, **SMALL)
    assert found[""].reason == "expands-too-much"


def test_a_pax_header_that_claims_gigabytes_is_refused(tmp_path):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 4 << 30
    content = header.tobuf(tarfile.PAX_FORMAT)[-512:] + bytes(4096)
    assert looked_at(content, "d.tar", tmp_path)[""].reason == "header-too-long"


def test_too_many_members_and_bytes_are_limits_of_the_whole(one_slice, tmp_path):
    many = tarred({str(n): b"" for n in range(20)})
    found = looked_at(zipped({"many.tar": many, "1": one_slice}), "d.zip", tmp_path, members=10)
    assert found["many.tar"].reason == found[""].reason == "too-many-members"
    assert "1" not in found
    found = looked_at(zipped({str(n): b"" for n in range(20)}), "d.zip", tmp_path, members=10)
    assert list(found) == [""]
    found = looked_at(gzip.compress(tarred({"1": bytes(9999)})), "d", tmp_path, expanded_bytes=5000)
    assert found[""].reason == "too-many-bytes"


def test_names_links_devices_and_twins_are_refused_by_name(one_slice, tmp_path):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, kind in {
            "good": tarfile.REGTYPE, "../up": tarfile.REGTYPE, "/root": tarfile.REGTYPE,
            "C:\\x": tarfile.REGTYPE, "a\\..\\b": tarfile.REGTYPE, "soft": tarfile.SYMTYPE,
            "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE, "disk": tarfile.BLKTYPE,
            "folder": tarfile.DIRTYPE,
        }.items():  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            info.size = len(one_slice) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(one_slice))
    found = looked_at(target.getvalue(), "d.tar", tmp_path)
    assert {name: each.reason for name, each in found.items()} == {
        "good": "", "../up": "path-traversal", "/root": "absolute-name", "C:\\x": "absolute-name",
        "a\\..\\b": "path-traversal", "soft": "link", "hard": "link", "pipe": "device",
        "disk": "device", "": "",
    }  # fmt: skip
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("1", one_slice)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("1", one_slice)
        link, secret = zipfile.ZipInfo("link"), zipfile.ZipInfo("secret")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr(secret, one_slice)
        secret.flag_bits |= 0x1
    target.seek(0)
    rows = look(target, "d.zip", None, Limits(), tmp_path)
    assert [(each.at, each.reason) for each in rows if isinstance(each, Entry)] == [
        ("0", ""), ("1", "duplicate-name"), ("2", "link"), ("3", "encrypted"), ("", ""),
    ]  # fmt: skip


def test_sizes_that_no_disk_has_are_not_believed(one_slice, tmp_path, taken):
    tars = []
    for size in (1 << 80, -(1 << 40)):
        info = tarfile.TarInfo("huge")
        info.size = size
        tars.append(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    whole = bytearray(zipped({"lie": one_slice, "1": one_slice}))
    directory = whole.find(b"PK\x01\x02")
    whole[directory + 20 : directory + 28] = b"\xfe\xff\xff\xff" * 2
    (tmp_path / "d").mkdir()
    for name, content in {"a.tar": tars[0], "b.tar": tars[1], "c.zip": bytes(whole)}.items():
        (tmp_path / "d" / name).write_bytes(content)
    header = np.array([4, 9, 8, 32767, 32767, 32767, 32767, 32767], "<i2").tobytes()
    header = (348).to_bytes(4, "little") + bytes(36) + b"\7\0" + header[2:] + bytes(288)
    for number in range(3):
        (tmp_path / "d" / f"{number}.nii.gz").write_bytes(gzip.compress(header + b"n+1\0"))
    assert outcomes(taken(tmp_path / "d")) == {
        "readable": 4, "refused: expands-too-much": 1, "refused: negative-size": 1, "opened": 1,
        "unreadable: damaged": 3,
    }  # fmt: skip


@pytest.mark.parametrize("packing", ["", "gz", "bz2", "xz"])
def test_a_tar_cut_anywhere_says_so_and_keeps_what_was_whole(packing, one_slice, tmp_path):
    whole = tarred({str(n): one_slice for n in range(4)}, packing)
    # What follows the last member's values may be lost: it is zeros.
    end = len(whole) * 2 // 3 if packing else 4 * (512 + -(-len(one_slice) // 512) * 512) - 512
    for cut in range(600, end, 97):
        found = looked_at(whole[:cut], "d.tar", tmp_path)
        lost = [each for each in found.values() if each.status == "unreadable"]
        assert lost, cut
        assert all(each.reason in ("damaged", "truncated") for each in lost)


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_taken_for_its_end(one_slice, tmp_path):
    whole = bytearray(tarred({str(n): one_slice for n in range(3)}))
    second = 512 + -(-len(one_slice) // 512) * 512
    whole[second + 150] ^= 0xFF
    found = looked_at(bytes(whole), "d.tar", tmp_path)
    assert reasons(found) == {"0": "readable", "": "unreadable: damaged"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_nested_archives_lose_nothing_and_make_nothing_up(data, one_slice, tmp_path):
    leaves = {"slice": one_slice, "text": b"hello", "empty": b"", "cut": one_slice[:300]}

    def content(depth):
        """Bytes, their kind, and how many rows there must be below them."""
        kinds = ["zip", "tar", "tar.gz", "gz"] if depth else []
        kind = data.draw(st.sampled_from([*leaves, *kinds]))
        if kind in leaves:
            return leaves[kind], kind, 0
        if kind == "gz":
            inner, inside, below = content(depth - 1)
            # A packed tar is one archive, not two.
            return gzip.compress(inner), kind, below + (inside != "tar")
        # A tar of nothing is nothing but zeros.
        made = [content(depth - 1) for _ in range(data.draw(st.integers(kind != "zip", 3)))]
        files = {f"{n}": inner for n, (inner, _, _) in enumerate(made)}
        whole = zipped(files) if kind == "zip" else tarred(files, kind.removeprefix("tar")[1:])
        return whole, kind, sum(below + 1 for _, _, below in made)

    whole, _, below = content(4)
    found = looked_at(whole, "d", tmp_path, depth=9)
    assert len(found) == 1 + below
    assert all(each.status not in ("refused", "unreadable") for each in found.values()), found


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_ends_in_a_named_outcome(data, one_slice, tmp_path):
    inner = tarred({"1": one_slice, "2": one_slice}, data.draw(st.sampled_from(["", "gz", "xz"])))
    whole = bytearray(zipped({"a": inner, "b": one_slice}, data.draw(st.sampled_from([0, 8, 14]))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    found = looked_at(bytes(whole), "d", tmp_path)
    assert all(each.status for each in found.values())
