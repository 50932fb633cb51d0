"""The split, as committed: by patient, and every kind of use holds several anatomies."""

from __future__ import annotations

import sys
from collections import defaultdict

import pytest

from support import REPOSITORY, shared

sys.path.insert(0, str(REPOSITORY / "models"))
import cases


def test_nobody_serves_two_purposes():
    purposes = defaultdict(set)
    for case in cases.read_split():
        purposes[case.patient].add(case.set)
    assert all(len(sets) == 1 for sets in purposes.values())


def test_no_file_or_series_is_listed_twice():
    listed = [(case.path, case.series) for case in cases.read_split()]
    assert len(set(listed)) == len(listed)
    names = [case.id for case in cases.read_split()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("purpose", cases.SETS)
def test_every_use_has_several_anatomies_and_both_ct_and_mr(purpose):
    chosen = [case for case in cases.read_split() if case.set == purpose]
    assert {"CT", "MR"} <= {case.modality for case in chosen}
    assert len({case.anatomy for case in chosen}) >= 4
    assert sum(case.anatomy == "hippocampus" for case in chosen) >= 20


def test_a_patient_in_two_sets_is_refused(tmp_path):
    path = tmp_path / "split.toml"
    line = '[[case]]\nid="{0}"\nset="{1}"\npatient="p"\nmodality="MR"\nanatomy="a"\npath="{0}"\n'
    path.write_text(line.format("a", "train") + line.format("b", "evaluation"))
    with pytest.raises(ValueError, match="p is in train and in evaluation"):
        cases.read_split(path)


def test_every_case_of_the_split_loads_as_a_stack_of_planes():
    data = shared()
    for case in cases.read_split():
        if "hippocampus_" in case.id:
            assert (data / case.path).is_file()
        else:
            assert cases.load(case, data).ndim == 3, case.id
