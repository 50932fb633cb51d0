"""What labels mean, and when neighbours disagree with one."""

from __future__ import annotations

import pytest

from diptych.judge.labels import (
    MIN_KNOWN,
    NOTHING,
    Disagreement,
    Heard,
    Vote,
    body_part,
    disagreement,
    modality,
)

MR, CT = modality("MR"), modality("CT")


def known() -> int:
    return MIN_KNOWN


def votes(*slices: int, says: frozenset[str] = MR) -> list[Vote | None]:
    """So many slices for each of several patients."""
    return [Vote(f"patient {i}", says) for i, count in enumerate(slices) for _ in range(count)]


@pytest.mark.parametrize(
    "texts",
    [
        ("HEAD", "head", " Brain ", "SKULL", "Brain/Head", "HEAD AND BRAIN"),
        ("KNEE", "Knee LEFT", "RT KNEE", "knee_r", "LEG"),
        ("CSPINE", "C-SPINE", "c spine"),
        ("CHEST", "Thorax", "LUNGS"),
        ("ABDOMENPELVIS", "Abdomen/Pelvis", "ABDOMEN"),
    ],
)
def test_ways_to_write_one_region_say_the_same(texts: tuple[str, ...]) -> None:
    assert {body_part(text) for text in texts} == {body_part(texts[0])}
    assert body_part(texts[0]) != NOTHING


@pytest.mark.parametrize(
    "text", [None, "", "  ", "--", "LEFT", "WHOLEBODY", "KOPF", "HEAD W/O CONTRAST", "12", "HEADX"]
)
def test_a_text_that_is_not_known_says_nothing(text: str | None) -> None:
    assert body_part(text) == NOTHING


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CHEST", "CHESTABDOMEN"),
        ("ABDOMEN", "PELVIS"),
        ("LSPINE", "ABDOMEN"),
        ("HEAD", "HEADNECK"),
        ("HIP", "PELVIS"),
        ("SHOULDER", "CHEST"),
        ("TLSPINE", "CHEST"),
    ],
)
def test_parts_that_share_a_region_do_not_disagree(one: str, other: str) -> None:
    assert body_part(one) & body_part(other)


@pytest.mark.parametrize(
    ("one", "other"), [("HEAD", "KNEE"), ("CHEST", "PELVIS"), ("BRAIN", "LIVER"), ("HAND", "FOOT")]
)
def test_parts_without_a_common_region_do(one: str, other: str) -> None:
    assert not body_part(one) & body_part(other)


def test_modalities_that_make_the_same_kind_of_image_are_one() -> None:
    assert modality("CR") == modality("dx ")
    assert modality("XA") == modality("RF")
    assert modality("CT") != modality("MR")
    for text in (None, "", "OT", "SC", "SEG", "CT2"):
        assert modality(text) == NOTHING


def test_three_patients_that_agree_on_another_label_disagree_with_it() -> None:
    found = disagreement(CT, votes(4, 4, 2), known)
    assert found == Disagreement("MR", subjects=3, slices=10, of=10)


@pytest.mark.parametrize(
    ("heard", "said", "why"),
    [
        (votes(5, 5), "too-few", "two patients may both be wrong"),
        (votes(10), "too-few", "one patient, a near-duplicate perhaps, does not vote alone"),
        (votes(30, 1, 1), "too-few", "nor with two that hardly say anything"),
        (votes(2, 2, 2) + votes(2, says=CT), "agrees", "a quarter says what the series says"),
        (votes(2, 2, 2, says=NOTHING), "too-few", "nobody has a label that means something"),
        ([*votes(1, 1, 1), *[None] * 4], "too-few", "most slices have no labelled neighbour"),
        (votes(4, 4, 4, says=CT), "agrees", "they agree with it"),
        ([], "too-few", "there is no slice"),
        ([None] * 5, "too-few", "there is no neighbour"),
    ],
)
def test_less_than_that_raises_nothing_and_says_why(
    heard: list[Vote | None], said: str, why: str
) -> None:
    assert disagreement(CT, heard, known) == said, why


def test_a_label_that_says_nothing_is_never_flagged() -> None:
    assert disagreement(NOTHING, votes(4, 4, 4), known) == Heard.UNLABELLED


def test_what_the_archive_hardly_knows_is_never_flagged() -> None:
    asked = []

    def few() -> int:
        asked.append(True)
        return 3

    assert disagreement(CT, votes(4, 4, 4, 4), few) == Heard.TOO_FEW, (
        "fewer than those who say otherwise"
    )
    assert disagreement(CT, votes(4, 4, 4), lambda: MIN_KNOWN - 1) == Heard.TOO_FEW
    assert len(asked) == 1
    disagreement(CT, votes(4, 4), few)
    assert len(asked) == 1, "the archive is asked only when everything else holds"


def test_a_dissenter_within_a_fifth_does_not_stop_it() -> None:
    found = disagreement(CT, votes(3, 3, 2) + votes(2, says=CT), known)
    assert found == Disagreement("MR", subjects=3, slices=8, of=10)


def test_neighbours_that_overlap_among_themselves_agree_on_what_they_share() -> None:
    abdomen, pelvis = body_part("ABDOMEN"), body_part("PELVIS")
    mixed = votes(3, 3, says=abdomen) + [Vote("another", pelvis)] * 3
    assert disagreement(body_part("HEAD"), mixed, known) == Disagreement("pelvis", 3, 9, 9)
