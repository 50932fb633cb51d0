"""A PatientID that everybody has is nobody's."""

from __future__ import annotations

import pytest

from diptych.judge.patient import is_placeholder, patient_hmac


@pytest.mark.parametrize(
    "text",
    ["", " ", "-", "0", "000000", "anonymous", "Anonymized", "ANON^", "unknown", "n/a", "N.A.",
     "None", "xxxx", "XX-XX", "9999", "De-Identified", "patient_id", "no id"],
)  # fmt: skip
def test_what_stands_for_a_missing_identifier_names_nobody(text: str) -> None:
    assert is_placeholder(text)
    assert patient_hmac(b"key", text, "19700101") is None


@pytest.mark.parametrize("text", ["1", "9", "111", "10", "ANON-0042", "LIDC-IDRI-0001", "Xavier"])
def test_a_number_or_a_name_of_its_own_is_believed(text: str) -> None:
    assert not is_placeholder(text)
    assert patient_hmac(b"key", text, "") is not None


def test_the_hash_depends_on_the_key_the_identifier_and_the_birth_date() -> None:
    made = {
        patient_hmac(key, text, born)
        for key in (b"one", b"other")
        for text in ("4711", "4712")
        for born in ("", "19700101")
    }
    assert len(made) == 8
