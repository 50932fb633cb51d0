"""What a case says it shows: kept with it, forgotten with it, brought along by the migration."""

from __future__ import annotations

from audit.builder import Archive, nodes_of, stack
from diptych.audit import counters, labels, migrate, models, reverdicts


def test_the_migration_takes_the_modality_of_older_cases_from_their_newest_verdict(
    filled, tmp_path
):
    shown = filled.rows('SELECT id, modality FROM "case" ORDER BY id')
    assert {modality for _, modality in shown} == {"CT"}
    filled.tamper("UPDATE verdict SET modality = 'MR' WHERE case_id = 1")
    filled.forget(4)
    filled.tamper(
        'ALTER TABLE "case" DROP COLUMN modality',
        'ALTER TABLE "case" DROP COLUMN body_part',
        "DROP TABLE reverdict",
        "DROP TABLE layout",
        "DROP TABLE forward",
        "DROP TABLE commitment_item",
        "DROP TABLE commitment",
        "DROP TABLE pull",
        "UPDATE alembic_version SET version_num = '0001'",
    )
    migrate.upgrade(filled.store)
    migrate.check(filled.store)
    found = filled.rows('SELECT id, modality, body_part FROM "case" ORDER BY id')
    expected = {**dict(shown), 1: "MR", 4: None}
    assert found == [(id_, expected[id_], None) for id_ in sorted(expected)]


def test_there_is_one_line_of_migrations_and_no_way_back():
    scripts = migrate.known_revisions()
    assert {"0001", "0002"} <= scripts
    assert (
        "downgrade"
        not in (migrate.scripts_folder() / "versions/0002_labels_of_a_case.py").read_text()
    )


def test_a_case_says_what_its_newest_revision_says(empty):
    empty.judge("A", stack("a", modality="CT", body_part="HEAD"), contents=["a"])
    assert said(empty) == [("CT", "HEAD")]
    empty.judge("A", stack("a2", modality="MR", body_part=None), contents=["b"])
    assert said(empty) == [("MR", None)]
    empty.judge("B", stack("b", modality="M" * 99, body_part="x" * 99), contents=["c"])
    assert said(empty)[1] == ("M" * 16, "x" * 64)


def test_forgetting_a_case_forgets_what_it_said(filled):
    filled.judge("Z", stack("z", body_part="JANE DOES HEAD"), contents=["z"])
    (case_id,) = filled.rows('SELECT max(id) FROM "case"')[0]
    filled.forget(case_id)
    if not filled.store.is_postgresql:
        assert b"JANE DOES HEAD" not in filled.database.read_bytes()
    with filled.store.read() as connection:
        assert labels.of_cases(connection, [case_id]) == {}
        assert labels.known(connection, [case_id]) == {}
    assert filled.verify() == ()


def test_a_copy_is_its_originals_patients(filled):
    with filled.store.read() as connection:
        found = labels.of_cases(connection, [1, 3, 4, 6])
        assert set(found) == {1, 3, 4, 6}
        # Case 3 is an exact copy of case 1, case 4 a near-duplicate of it.
        assert found[3].subject == found[4].subject == found[1].subject


def test_what_the_archive_says_counts_volumes_of_other_series_that_could_be_neighbours(empty):
    for name, part in (("A", "HEAD"), ("B", "HEAD"), ("C", None)):
        empty.judge(name, stack(name, body_part=part), contents=[name])
    single = stack("d", body_part="HEAD", nodes=nodes_of("d/0"))
    empty.judge("D", single, contents=["d"])
    empty.judge("E", stack("e", body_part="HEAD"), contents=["e"])
    empty.forget(5)
    with empty.store.read() as connection:
        found = labels.said(connection, empty.fingerprint, without_series=1, least_slices=3)
        assert found == {("CT", "HEAD"): 1, ("CT", None): 1}
        assert labels.said(connection, 99, without_series=1, least_slices=3) == {}


def test_whose_a_case_is_without_a_patient_or_a_study():
    assert labels.subject(b"\x01", "1.2", 3) == "patient 01"
    assert labels.subject(None, "1.2", 3) == "study 1.2"
    assert labels.subject(None, None, 3) == "case 3"


def test_what_came_of_the_audit_is_counted_once_for_a_series_in_the_verdicts_transaction(empty):
    both = {"modality": "disagrees", "body_part": "disagrees"}
    empty.judge(
        "A",
        stack("a", label_audit=both),
        stack("a2", "sagittal", principal=False, label_audit=both),
        contents=["a"],
        source="north",
    )
    empty.judge("A", stack("a3", label_audit=both), contents=["late"])  # a later revision
    few = {"modality": "disagrees", "body_part": "too-few"}
    empty.judge("B", stack("b", label_audit=few), contents=["b"], source="north")
    with empty.store.read() as connection:
        found = counters.read_counters(connection)
    name = "diptych_label_disagreements_total"
    assert {key[1]: value for key, value in found.items() if key[0] == name} == {
        (("label", "modality"), ("source", "north")): 2.0,
        (("label", "body_part"), ("source", "north")): 1.0,
    }
    name = "diptych_label_audits_total"
    assert {key[1][:2]: value for key, value in found.items() if key[0] == name} == {
        (("label", "modality"), ("outcome", "disagrees")): 2.0,
        (("label", "body_part"), ("outcome", "disagrees")): 1.0,
        (("label", "body_part"), ("outcome", "too-few")): 1.0,
    }


def test_a_copy_that_a_replay_took_back_is_its_own_patients_again(filled):
    """And a stranger, of whom d_max may be measured."""
    with filled.store.read() as connection:
        (copy,) = [one for one in reverdicts.stacks(connection, 3) if one.case_id == 4]
    assert copy.relation == "near-duplicate"
    filled.tamper("UPDATE digest SET patient_hmac = x'07' WHERE case_id = 4")
    with filled.store.read() as connection:
        assert labels.of_cases(connection, [4])[4].subject != "patient 07"
        assert all(one.cases[0][0] != 4 for one in models.strangers(connection, 10))
    back = reverdicts.Said(copy, "unique", (), None, 0.9, "not enough", "strict/1")
    assert reverdicts.record(filled.store, [back]) == 1
    with filled.store.read() as connection:
        assert labels.of_cases(connection, [4])[4].subject == "patient 07"
        assert 4 in [one.cases[0][0] for one in models.strangers(connection, 10)]


def said(archive: Archive) -> list[tuple[str | None, str | None]]:
    return archive.rows('SELECT modality, body_part FROM "case" ORDER BY id')
