"""``diptych evaluate --ablation``: every variant by hand, the pictures, and the command."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from diptych import lookup
from diptych.demo import phantoms
from diptych.embed.manifest import load_model
from diptych.embed.session import Embedder
from diptych.evaluate import ablation_report, mistakes
from diptych.evaluate.ablation import (
    COMPLETE,
    VARIANTS,
    Ablated,
    Alignments,
    ablated,
    margin,
    mistaken,
)
from diptych.evaluate.answers import (
    DUPLICATE,
    SEVEN,
    TRANSFORMS,
    Mistake,
    ProductAnswer,
    Protocol,
    Transform,
)
from diptych.evaluate.product import Product
from diptych.evaluate.product_results import FOUND, product_results
from diptych.evaluate.reading import read_nifti
from diptych.evaluate.transforms import transformed
from diptych.judge import ladder, proxy
from diptych.judge.check import Band, Check, Impossible
from diptych.judge.digest import case_digest
from diptych.judge.ladder import Evidence, LayoutHit, Relation, SliceHit
from diptych.judge.policy import Policy
from diptych.ready import Stages, make_ready
from diptych.volume.value import Volume
from evaluate.test_command import run
from evaluate.volumes import folder_of_bodies, save_nifti

POLICY = Policy("hand-made", 1, 0.3)
BANDS = (Band(0.5, 1.0, 1.0, 9000), Band(0.9, 2.0, 2.0, 4000), Band(0.8, 3.0, 3.0, 500))
COPY = Check(1, None, 0.96, 0.02, overlap=(0.9, 0.9), spacing_mm=1.0, bands=BANDS)
TURNED = TRANSFORMS[6]
"""10 degrees."""


def evidence(by_slices: dict[int, int], layouts: dict[int, float], near: float = 0.1) -> Evidence:
    """by_slices: hits of each case, all at the distance ``near``."""
    hits = [SliceHit(case, near) for case, count in by_slices.items() for _ in range(count)]
    return ladder.gather(hits, POLICY, layouts=[LayoutHit(*hit) for hit in layouts.items()])


def asked(name: str, found: Evidence, check: Check = COPY) -> Ablated:
    """What a variant says when every alignment finds ``check``."""
    (variant,) = [each for each in VARIANTS if each.name == name]
    return ablated(variant, found, POLICY, Alignments(lambda case: replace(check, case=case)))


def tried(name: str, found: Evidence) -> list[int]:
    refuted = replace(COPY, correlation=0.5)
    return [check.case for check in asked(name, found, refuted).checks]


def confirmed(name: str, check: Check) -> bool:
    return asked(name, evidence({1: 9}, {}), check).judgement.relation in FOUND


def test_every_variant_aligns_the_candidates_of_its_own_evidence() -> None:
    found = evidence({1: 6, 2: 3}, {3: 0.0, 4: 0.5, 1: 0.6})
    assert {variant.name: tried(variant.name, found) for variant in VARIANTS} == {
        "complete": [1, 3, 2],
        "slices-only": [1, 2],
        "layouts-only": [3],
        "one-candidate": [1],
        "no-verification": [],
        "no-noise-correction": [1, 3, 2],
        "one-correlation": [1, 3, 2],
        "no-largest-error": [1, 3, 2],
        "count-only": [],
    }


def test_without_verification_the_slices_within_d_max_decide() -> None:
    near, far = evidence({1: 6, 2: 3}, {}), evidence({1: 6, 2: 3}, {}, near=0.5)
    assert asked("no-verification", near).judgement.relation == Relation.NEAR_DUPLICATE
    assert asked("no-verification", far).judgement.relation == Relation.UNIQUE


def test_the_count_alone_asks_for_neither_distance_nor_digest() -> None:
    strewn = evidence(dict.fromkeys(range(1, 10), 1), {}, near=0.5)
    close = evidence({1: 6, 2: 3}, {}, near=0.5)
    judgement = asked("count-only", replace(close, digest_match=7)).judgement
    assert (judgement.relation, judgement.matched_case) == (Relation.NEAR_DUPLICATE, 1)
    assert asked("count-only", strewn).judgement.relation == Relation.UNIQUE
    assert asked("count-only", evidence({}, {})).judgement.relation == Relation.NOT_SCREENABLE
    assert asked("no-verification", replace(close, digest_match=7)).judgement.matched_case == 7


def test_without_the_correction_a_noisy_copy_correlates_as_its_voxels_do() -> None:
    noisy = replace(COPY, noise=0.6)
    (seen,) = asked("no-noise-correction", evidence({1: 9}, {}), noisy).checks
    assert seen.correlation == pytest.approx(0.85, abs=0.01), "the mean of 0.9 and 0.8"
    assert seen.noise == 0.0
    assert ladder.demanded(seen, POLICY) == POLICY.min_correlation
    assert confirmed("complete", noisy)
    assert not confirmed("no-noise-correction", noisy)


def test_without_its_rule_each_piece_of_verification_believes_more() -> None:
    unsure = replace(COPY, error=1.4)
    blurred = replace(COPY, correlation=0.95, blur_mm=8.0)
    assert not confirmed("complete", unsure)
    assert confirmed("no-largest-error", unsure)
    assert not confirmed("complete", blurred)
    assert confirmed("one-correlation", blurred)


def test_what_could_not_be_aligned_stays_so_in_every_variant() -> None:
    impossible = Check(1, Impossible.TOO_SMALL)
    found = evidence({1: 9}, {1: 0.1})
    for variant in VARIANTS:
        one = asked(variant.name, found, impossible)
        assert set(one.checks) <= {impossible}
        by_slices = variant.name != "layouts-only"
        assert (one.judgement.relation == Relation.NEAR_DUPLICATE) == by_slices
    assert margin(impossible, found, POLICY) == 1.0 - POLICY.min_coverage
    assert margin(COPY, found, POLICY) == pytest.approx(0.96 - POLICY.min_correlation)


def test_an_alignment_is_computed_once_and_charged_to_all_who_asked() -> None:
    computed = []

    def align(case: int) -> Check:
        computed.append(case)
        time.sleep(0.01)
        return replace(COPY, case=case, correlation=0.5)

    alignments, found = Alignments(align), evidence({1: 6, 2: 3}, {})
    each = {one.name: ablated(one, found, POLICY, alignments) for one in VARIANTS}
    assert computed == [1, 2]
    assert each["complete"].seconds == each["slices-only"].seconds >= 0.02
    assert each["complete"].seconds > each["one-candidate"].seconds >= 0.01
    assert each["no-verification"].seconds == each["count-only"].seconds == 0.0


def test_a_mistake_is_a_lost_copy_a_wrong_case_or_a_stranger_that_is_called() -> None:
    called = asked("complete", evidence({1: 9}, {})).judgement
    quiet = asked("complete", evidence({1: 9}, {}), replace(COPY, correlation=0.5)).judgement
    assert [mistaken(called, true) for true in (1, 2, None)] == [False, True, True]
    assert [mistaken(quiet, true) for true in (1, 2, None)] == [True, True, False]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Stored from left to right and from head to feet: not as it is hung."""
    made = phantoms.generate(phantoms.Recipe("p", "head", 60, (30, 80, 72), (6.0, 3.0, 2.5)))
    affine = np.diag([2.5, -3.0, -6.0, 1.0])
    path = tmp_path_factory.mktemp("head") / "head.nii.gz"
    return read_nifti(save_nifti(path, made.pixels, affine)).volume


def test_the_complete_variant_says_what_the_ladder_says(head: Volume) -> None:
    embedder = Embedder(load_model(), threads=1)
    product = Product(embedder.model)
    other = phantoms.generate(phantoms.Recipe("p", "head", 61, (30, 80, 72), (6.0, 3.0, 2.5)))
    stranger = replace(head, array=other.pixels.astype(np.float32))
    for volume in (head, stranger):
        ready = make_ready(volume, embedder.model.input_size, Stages())
        vectors = embedder.embed(ready.slices)
        product.add(ready.slice_digests, case_digest(volume.digests), vectors, ready.proxy[1])
    for transform in (DUPLICATE, TURNED, TRANSFORMS[16], TRANSFORMS[24]):
        volume = transformed(head, transform, "a")
        ready = make_ready(volume, embedder.model.input_size, Stages())
        vectors = embedder.embed(ready.slices)
        digest = case_digest(volume.digests)
        whole = product.judge(ready, digest, lambda vectors=vectors: vectors)
        bare = replace(product.policy, most_verified=0)
        found = product.judge(ready, digest, lambda vectors=vectors: vectors, bare)
        ours = proxy.decode(ready.proxy[1])
        alignments = Alignments(lambda case, ours=ours: product.align(case, ours))
        one = ablated(COMPLETE, found.evidence, product.policy, alignments)
        assert (one.judgement, one.checks) == (whole.judgement, whole.evidence.checks), transform
        assert found.evidence.checks == ()


def mistake(side: str = "copy", relation: str = "unique", above: float = -0.1, **more) -> Mistake:
    values = {"matched": None, "against": "b", "tried": True, "transform": TURNED, "case": "a"}
    return Mistake(side=side, relation=relation, margin=above, **{**values, **more})


def test_wrong_calls_come_before_lost_copies_and_each_kind_from_its_worst() -> None:
    made = [
        mistake(above=-0.01),
        mistake(above=-0.5),
        mistake("stranger", "near-duplicate", 0.01),
        mistake("stranger", "exact", 0.06),
        mistake("copy", "partial", 0.03, matched="c"),
        *(mistake(above=-0.005, case=f"{n}") for n in range(9)),
    ]
    found = [each.margin for each in mistakes.worst(made)]
    assert found == [0.06, 0.03, 0.01, -0.5, -0.01, *[-0.005] * 5]


@pytest.mark.parametrize("transform", [DUPLICATE, TURNED, TRANSFORMS[4], TRANSFORMS[10]], ids=str)
def test_the_other_case_is_brought_onto_the_query_voxel_by_voxel(
    head: Volume, transform: Transform
) -> None:
    query = transformed(head, transform, "a")
    made = mistakes.picture(mistake(transform=transform), query, head, POLICY)
    known = np.isfinite(made.theirs) & (made.ours > np.percentile(made.ours, 50))
    assert known.mean() > 0.3
    assert np.corrcoef(made.ours[known], made.theirs[known])[0, 1] > 0.97
    assert made.difference is not None
    assert np.nanmean(np.abs(made.difference)) < 0.04
    assert made.aspect == pytest.approx(3.0 / 2.5)


def part(volume: Volume, slices: slice) -> Volume:
    return replace(
        volume,
        array=volume.array[slices].copy(),
        positions=volume.positions[slices],
        digests=volume.digests[slices],
        constant=volume.constant[slices],
    )


def test_of_a_part_the_slice_in_the_middle_of_what_both_have_is_shown(head: Volume) -> None:
    made = mistakes.picture(mistake(), head, part(head, slice(12)), POLICY)
    assert np.isfinite(made.theirs).mean() > 0.9


def test_the_words_name_the_files_what_was_found_and_what_was_demanded(head: Volume) -> None:
    query = transformed(head, TURNED, "a")
    lost = mistakes.picture(mistake(tried=False), query, head, POLICY).words
    assert lost[:3] == ("Copy lost: unique", "query: a, Rotation (angle=10°)", "true case: b")
    assert "turned" in lost[3]
    assert lost[4].startswith("demanded 0.9")
    assert "no candidate" in lost[5]
    wrong = mistake("stranger", "partial", matched="b")
    assert mistakes.said(wrong, COPY, POLICY)[0] == "Stranger called partial"
    unsure = replace(COPY, error=0.3, overlap=(0.1, 0.1))
    asked = mistakes.said(wrong, unsure, POLICY)[-1]
    assert "with an error of 0.105 at most" in asked
    assert "0.10 of the foreground in common, demanded 0.15" in asked


def test_pictures_are_drawn_of_any_names_and_of_what_was_never_aligned(
    tmp_path: Path, head: Volume
) -> None:
    tiny = replace(part(head, slice(2)), array=head.array[:2, :16, :16].copy())
    odd = mistake(case="a$\\frac$_\udcff", against="$x$")
    pictures = [mistakes.picture(odd, each, head, POLICY) for each in (tiny, head)]
    assert pictures[0].difference is None
    assert pictures[0].words[-1] == "cannot be aligned: too-small"
    png, svg = mistakes.draw(tmp_path, pictures)
    assert Image.open(png).size[1] > 600
    text = "".join(ElementTree.parse(svg).getroot().itertext())
    assert "a$\\frac$_\\udcff" in text
    assert "difference" in text
    with pytest.raises(ValueError, match="no mistake"):
        mistakes.draw(tmp_path, [])


PROTOCOL = Protocol(4, 2, 2, "m", "", "", 40)
NONE = ablation_report.Mistakes(0, (), ())


def written(tmp_path: Path, answers: list[ProductAnswer], quick: bool = False) -> list[list[str]]:
    results = [product_results(answers, "p")] * len(VARIANTS)
    ablation_report.write(tmp_path, PROTOCOL, "p", quick, results, NONE)
    assert "made no mistake" in (tmp_path / "ablation.md").read_text()
    with (tmp_path / "ablation.csv").open() as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("sides", [("stranger",), ("copy",), ()], ids=str)
def test_a_side_without_queries_has_no_rate(tmp_path: Path, sides: tuple[str, ...]) -> None:
    answers = [
        ProductAnswer("a", side, transform, "unique", None, 0.5)
        for side in sides
        for transform in TRANSFORMS
    ]
    header, first, *_ = written(tmp_path, answers)
    said = dict(zip(header, first, strict=True))
    copies, strangers = "copy" in sides, "stranger" in sides
    assert said["sensitivity_all"] == ("0.0" if copies else "")
    assert said["specificity"] == said["specificity_transformed"] == ("1.0" if strangers else "")
    assert said["specificity_transformed_of"] == ("24" if strangers else "0")
    assert said["seconds_median"] == ("0.5" if sides else "")


def test_quick_has_no_column_of_all_sets(tmp_path: Path) -> None:
    answers = [ProductAnswer("a", "copy", each, "exact", "a", 0.5) for each in SEVEN]
    header = written(tmp_path, answers, quick=True)[0]
    assert "sensitivity_seven" in header
    assert "sensitivity_all" not in header
    assert "mean of the 6 transforms" in (tmp_path / "ablation.md").read_text()


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "cases"
    for seed in (60, 61):
        made = phantoms.generate(phantoms.Recipe("p", "head", seed, (20, 80, 72), (6.0, 3.0, 3.0)))
        save_nifti(folder / f"head-{seed}.nii.gz", made.pixels)
    return folder


@contextmanager
def demanding() -> Iterator[None]:
    """A policy that believes in next to nothing, so that copies are lost."""
    numbers = replace(
        lookup.BUNDLED.numbers,
        min_correlation_noisy=0.98,
        min_correlation=0.98,
        min_correlation_blurred=0.98,
        max_error=0.001,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "BUNDLED", replace(lookup.BUNDLED, numbers=numbers))
        yield


@pytest.fixture(scope="module")
def lost(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose ladder loses six of the seven copies."""
    out = tmp_path_factory.mktemp("lost") / "out"
    with demanding():
        done = run(heads, "--ablation", "--quick", "--out", out)
    assert done.exit_code == 0, done.stderr
    (out / "stdout").write_text(done.stdout)
    return out


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "ablation.csv").open() as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def test_the_command_writes_a_row_per_variant_and_prints_it(lost: Path) -> None:
    rows = table(lost)
    assert list(rows) == [variant.name for variant in VARIANTS]
    assert {row["sensitivity_seven_of"] for row in rows.values()} == {"7"}
    assert {row["specificity_transformed_of"] for row in rows.values()} == {"6"}
    assert rows["complete"]["sensitivity_seven_hits"] == "1", "the digest"
    assert rows["no-verification"]["sensitivity_seven_hits"] != "1"
    assert rows["count-only"]["specificity"] == "0.0", "one case: c(3) is 1"
    seconds = {name: float(row["seconds_median"]) for name, row in rows.items()}
    assert seconds["complete"] > seconds["no-verification"] == seconds["count-only"] > 0
    said = (lost / "stdout").read_text()
    assert "made 6 mistakes; all are shown" in said
    assert str(lost / "ablation.md") in said
    for variant in VARIANTS:
        assert variant.words in said
        assert variant.words in (lost / "ablation.md").read_text()


def test_the_worst_mistakes_are_drawn_and_named(lost: Path) -> None:
    width, height = Image.open(lost / "mistakes.png").size
    assert width > 1200
    assert height > 6 * 300
    text = "".join(ElementTree.parse(lost / "mistakes.svg").getroot().itertext())
    report = (lost / "ablation.md").read_text()
    assert "![mistakes](mistakes.png)" in report
    for words in ("Copy lost", "head-60.nii.gz", "demanded 0.980"):
        assert words in text
        assert words in report
    assert "head-61" not in text, "the stranger was let alone"
    assert str(lost) not in report


def test_a_finished_ablation_is_resumed_at_once_and_leaves_the_run_beside_it(
    heads: Path, lost: Path
) -> None:
    (lost / "report.md").write_text("of the protocol")
    assert (lost / "ablation" / "answers.jsonl").exists()
    assert not (lost / "answers.jsonl").exists(), "that would be the protocol's"
    before = table(lost)
    other = run(heads, "--ablation", "--quick", "--out", lost, "--resume")
    assert other.exit_code == 2
    assert "policy differ" in other.stderr
    with demanding():
        refused = run(heads, "--ablation", "--quick", "--out", lost)
        again = run(heads, "--ablation", "--quick", "--out", lost, "--resume")
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    assert again.exit_code == 0, again.stderr
    assert "queries" not in again.stderr
    assert table(lost) == before
    assert (lost / "report.md").read_text() == "of the protocol"


def test_without_a_mistake_it_says_so_and_no_picture_stays(heads: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mistakes.png").write_bytes(b"of an earlier run")
    with pytest.MonkeyPatch.context() as patch:
        # Two of the seven sets are enough to say so.
        patch.setattr("diptych.evaluate.ablation_run.SEVEN", SEVEN[:2])
        done = run(heads, "--ablation", "--quick", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "The complete ladder made no mistake." in done.stdout
    assert not (tmp_path / "out" / "mistakes.png").exists()
    assert "mistakes.png" not in (tmp_path / "out" / "ablation.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--retrieval", "labels.csv"), "with --retrieval the protocol is not run"),
        (("--stand-ins", "9", "--stand-ins-from", "cases"), "leave out --stand-ins"),
        (("--index", "exact"), "leave out --index"),
        (("--calibrate", "cases"), "leave out --calibrate"),
        (("--json", "f.json"), "leave out --json"),
        (("--model", "thumbnail-16"), "thumbnail-16 lacks"),
    ],
    ids=str,
)
def test_what_makes_no_sense_together_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_bodies(tmp_path / "cases", 2)
    done = run("cases", "--ablation", *arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split()).replace("│ ", "")
    assert done.stdout == ""
    assert not (tmp_path / "diptych-evaluation").exists()
