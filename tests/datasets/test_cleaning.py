"""Cleaning: centres against their definition, lists of decisions, pairs and overlap against brute force, pages."""
import csv
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError, UserError
from datasets import same_identity
from datasets.decisions import apply_decisions, merge_pairs, read_decisions
from datasets.embedding_store import EmbeddedSet
from datasets.identity_centres import find_centres, robust_centre
from datasets.label_noise import judge
from datasets.overlap import compare
from datasets.review_pages import Card, Group, write_pages
from datasets.training_set import TrainingSet

seeds = st.integers(0, 10000)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def around(random, direction, count, spread=0.8):
    """Unit vectors about arctan(spread) from a direction."""
    return unit(direction + spread * random.normal(0, len(direction) ** -0.5, (count, len(direction))))


def angles_to(vectors, direction):
    return np.degrees(np.arccos(np.clip(vectors.astype(float) @ direction, -1, 1)))


class TestCentre:
    @settings(deadline=None, max_examples=40)
    @given(seeds, st.integers(3, 40), st.floats(0, 0.49), st.booleans())
    def test_holds_against_fewer_than_half(self, seed, count, share, is_one_other):
        """Be the wrong ones anywhere or all of one person, the centre is as near the truth as without them."""
        random = np.random.RandomState(seed)
        own, other = np.linalg.qr(random.normal(size=(64, 2)))[0].T
        wrong = int(share * count)
        good = around(random, own, count - wrong)
        bad = around(random, other, wrong) if is_one_other else unit(random.normal(size=(wrong, 64)))
        centre = robust_centre(np.concatenate([bad, good]), 65)
        assert angles_to(centre, unit(good.mean(axis=0))) < 25

    def test_the_plain_mean_does_not(self):
        random = np.random.RandomState(0)
        good, bad = around(random, np.eye(64)[0], 11), around(random, np.eye(64)[1], 9)
        images = np.concatenate([bad, good])
        centre, plain = robust_centre(images, 65), robust_centre(images, 180)
        np.testing.assert_allclose(plain, unit(images.mean(axis=0)), atol=1e-6)
        assert (angles_to(images, centre) > 65).tolist() == [True] * 9 + [False] * 11
        assert np.median(angles_to(bad, plain)) < 60

    @settings(deadline=None, max_examples=60)
    @given(seeds, st.integers(1, 30), st.sampled_from([2, 8, 32]), st.sampled_from([30, 60, 75, 120]))
    def test_is_the_mean_of_what_lies_within_the_cut(self, seed, count, dimensions, cut):
        images = unit(np.random.RandomState(seed).normal(size=(count, dimensions)))
        centre = robust_centre(images, cut)
        angles = angles_to(images, centre)
        assert np.isfinite(centre).all() and abs(np.linalg.norm(centre) - 1) < 1e-5
        if (angles <= cut - 0.1).any() and (abs(angles - cut) > 0.1).all():
            np.testing.assert_allclose(centre, unit(images[angles <= cut].mean(axis=0)), atol=1e-5)

    @settings(deadline=None, max_examples=40)
    @given(seeds, st.integers(1, 30), st.integers(0, 10))
    def test_order_does_not_matter(self, seed, good, bad):
        random = np.random.RandomState(seed)
        images = np.concatenate([around(random, np.eye(32)[0], good), unit(random.normal(size=(bad, 32)))])
        order = random.permutation(len(images))
        np.testing.assert_allclose(robust_centre(images[order], 75), robust_centre(images, 75), atol=1e-5)

    @pytest.mark.parametrize("images", [[[1, 0], [-1, 0]], [[1, 0]] * 3, [[1, 0], [0, 1], [-1, 0], [0, -1]]])
    def test_no_nan(self, images):
        found = find_centres(np.array(images, np.float16), np.zeros(len(images), int), 75, progress=False)
        assert np.isfinite(found.angles).all() and np.isfinite(found.centres).all()

    def test_many_images(self):
        """Among more images than are candidates for the start."""
        random = np.random.RandomState(0)
        images = np.concatenate([around(random, np.eye(64)[0], 600), around(random, np.eye(64)[1], 500)])
        assert angles_to(robust_centre(images[random.permutation(1100)], 65), np.eye(64)[0]) < 5

    def test_identities_in_any_order(self):
        random = np.random.RandomState(0)
        labels = random.permutation(np.repeat([2, 5, 9], [4, 1, 7]))
        embeddings = np.concatenate([around(random, np.eye(16)[label], 1) for label in labels]).astype(np.float16)
        found = find_centres(embeddings, labels, 75, progress=False)
        assert found.identities.tolist() == [2, 5, 9] and [len(rows) for rows in found.rows] == [4, 1, 7]
        for k, rows in enumerate(found.rows):
            assert labels[rows].tolist() == [found.identities[k]] * len(rows)
            np.testing.assert_allclose(found.angles[rows], angles_to(unit(embeddings[rows].astype(float)),
                                                                     found.centres[k]), atol=0.1)
            nearest = sorted(rows, key=lambda row: found.angles[row])[:3]
            assert found.typical(k, 3).tolist() == nearest
        assert found.angles[labels == 5] < 0.1 and found.majority.all()


@pytest.fixture
def embedded(training_folder):
    """Identities of 3, 4 and 7 images: the third image of the first lies 90° off, the last of the last 70°."""
    labels, eye = np.repeat([0, 1, 2], [3, 4, 7]), np.eye(8)
    embeddings = eye[labels]
    embeddings[2] = eye[5]
    embeddings[13] = unit(np.cos(np.radians(70)) * eye[2] + np.sin(np.radians(70)) * eye[6])
    return EmbeddedSet(training_folder, embeddings.astype(np.float16), labels.astype(np.int32),
                       np.arange(14, dtype=np.uint64), "model")


@pytest.fixture
def training_set(training_folder):
    return TrainingSet(training_folder)


def read_list(path):
    return [list(row.values()) for row in csv.DictReader(path.read_text().splitlines())]


class TestJudge:
    def test_lists_and_pages(self, embedded, training_set, tmp_path):
        found = judge(embedded, training_set, tmp_path / "out", 60, 75, progress=False)
        rows = read_list(tmp_path / "out/decisions.csv")
        assert [(row[0], row[1], row[3]) for row in rows] == [("3", "0", "drop"), ("14", "2", "review")]
        assert float(rows[0][2]) == pytest.approx(90, abs=0.1) and 60 < float(rows[1][2]) < 70
        assert (found.is_dropped.sum(), found.is_reviewed.sum(), found.pages) == (1, 1, 1)
        page = (tmp_path / "out/page-0001.html").read_text()
        assert page.count("<fieldset") == 1 and 'data-key="14"' in page and page.count("<img") == 6 + 1

    @pytest.mark.parametrize("angles", [(70, 60), (-1, 60), (60, 180), (60, float("nan"))])
    def test_angles(self, embedded, training_set, tmp_path, angles):
        with pytest.raises(UserError, match="expected them from 0 to below 180"):
            judge(embedded, training_set, tmp_path / "out", *angles, progress=False)

    def test_nothing_left(self, training_set, tmp_path):
        embedded = EmbeddedSet(tmp_path, np.resize(np.array([[1, 0], [-1, 0.0001]], np.float16), (2, 2)),
                               np.zeros(2, int), None, "")
        with pytest.raises(UserError, match="no image is within 10 degrees"):
            judge(embedded, training_set, tmp_path / "out", 10, 10, progress=False)
        assert not list(tmp_path.iterdir())


class TestDecisions:
    def lists(self, folder, *texts):
        paths = [folder / f"{number}.csv" for number in range(len(texts))]
        for path, text in zip(paths, texts):
            path.write_text(text)
        return paths

    def test_later_ones_hold_unless_undecided(self, tmp_path):
        found = read_decisions(self.lists(
            tmp_path, "record,identity,angle,decision\n1,0,80.0,drop\n2,0,70.0,review\n3,0,60.0,review\n4,0,9,drop\n",
            "record,decision\n1,keep\n2,drop\n4,review\n", "identity,other,decision\n3,4,merge\n4,5,merge\n5,4,keep\n",
            "\ufeffidentity,decision\r\n7,drop\r\n8,review\r\n"))
        assert found == ({2: "1.csv", 4: "0.csv"}, {7: "3.csv"}, ((3, 4),), 2)

    @pytest.mark.parametrize("text, words", [
        ("", "line 1: found ''; expected columns"), ("a,decision\n", "line 1: found 'a,decision'"),
        ("record,angle\n1,2\n", "and 'decision'"), ("record,decision\n1,keep\n-1,drop\n", "line 3: found '-1'"),
        ("record,decision\n1.5,keep\n", "line 2: found '1.5'; expected whole numbers for record"),
        ("record,decision\n1\n", "line 2: found decision None"), ("record,decision\n1,merge\n", "expected keep, drop"),
        ("identity,other,decision\n1,2,drop\n", "expected keep, merge"), ("\udcff", "not a text in UTF-8"),
        ("record,decision\n99,drop\n", "0.csv: record 99 is no image of .*train.rec; is the list of another set"),
        ("identity,decision\n3,drop\n", "identity 3 of a list is none of"),
        ("identity,other,decision\n0,3,merge\n", "identity 3 of a list is none of"),
        ("identity,decision\n0,drop\n1,drop\n2,drop\n", "no image of .* is left")])
    def test_bad_lists(self, embedded, training_set, tmp_path, text, words):
        path = tmp_path / "0.csv"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(DataError, match=words):
            apply_decisions(embedded, training_set, [path], tmp_path / "out", progress=False)
        assert not (tmp_path / "out").exists()

    def test_apply(self, embedded, training_set, tmp_path, jpegs):
        paths = self.lists(tmp_path, "record,decision\n5,drop\n", "identity,other,decision\n2,1,merge\n",
                           "identity,decision\n0,drop\n")
        before = [path.read_bytes() for path in sorted(training_set.folder.iterdir())]
        apply_decisions(embedded, training_set, paths, tmp_path / "out", progress=False)
        cleaned = TrainingSet(tmp_path / "out")
        kept = [number for number in range(3, 14) if number != 4]
        assert [cleaned.read(i) for i in range(len(cleaned))] == [(jpegs[number], 0) for number in kept]
        assert (tmp_path / "out/dropped.csv").read_text() == (
            "record,identity,list\n1,0,2.csv\n2,0,2.csv\n3,0,2.csv\n5,1,0.csv\n")
        assert (tmp_path / "out/identities.csv").read_text() == (
            "original,images,kept,identity\n0,3,0,-1\n1,4,3,0\n2,7,7,0\n")
        assert [path.read_bytes() for path in sorted(training_set.folder.iterdir())] == before

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
    def test_merging(self, pairs):
        sets = {identity: {identity} for identity in range(10)}
        for one, other in pairs:
            joined = sets[one] | sets[other]
            sets.update({identity: joined for identity in joined})
        assert merge_pairs(pairs, 10).tolist() == [min(sets[identity]) for identity in range(10)]


class TestPairs:
    @pytest.mark.parametrize("block", [1, 7, 4096])
    def test_against_brute_force(self, monkeypatch, block):
        monkeypatch.setattr("datasets.identity_centres._BLOCK", block)
        centres = unit(np.random.RandomState(0).normal(size=(30, 6)))
        places, angles = same_identity.close_pairs(centres, 50, progress=False)
        expected = {(i, j): angles_to(centres[i], centres[j]) for i, j in itertools.combinations(range(30), 2)}
        expected = {pair: angle for pair, angle in expected.items() if angle <= 50}
        assert len(expected) > 10 and {tuple(pair) for pair in places.tolist()} == set(expected)
        np.testing.assert_allclose(angles, sorted(expected.values()), atol=0.01)
        np.testing.assert_allclose(angles, [expected[tuple(pair)] for pair in places.tolist()], atol=0.01)

    def test_too_many(self, monkeypatch):
        monkeypatch.setattr(same_identity, "_MOST", 9)
        with pytest.raises(UserError, match="more than 9 pairs of identities within 10 degrees"):
            same_identity.close_pairs(np.ones((5, 1), np.float32), 10, progress=False)

    def test_proposals(self, training_set, tmp_path):
        eye = np.eye(8)
        directions = np.stack([eye[0], unit(eye[0] + 0.2 * eye[1]), unit(eye[0] - 0.9 * eye[1])])
        labels = np.repeat([0, 1, 2], [3, 4, 7])
        embedded = EmbeddedSet(tmp_path, directions[labels].astype(np.float16), labels, None, "")
        found = same_identity.propose_merges(embedded, training_set, tmp_path / "out", 35, 50, progress=False)
        assert [row[:2] + row[3:] for row in read_list(tmp_path / "out/decisions.csv")] == [
            ["0", "1", "merge"], ["0", "2", "review"]]
        assert found.pages == 1 and 'data-key="0,2"' in (tmp_path / "out/page-0001.html").read_text()


@pytest.mark.parametrize("block", [1, 3, 100])
def test_overlap_against_brute_force(monkeypatch, block):
    monkeypatch.setattr("datasets.overlap._BLOCK", block)
    random = np.random.RandomState(0)
    centres, tests = unit(random.normal(size=(7, 5))), unit(random.normal(size=(20, 5)))
    digests, hashes = random.randint(0, 12, 30).astype(np.uint64), random.randint(0, 40, 20).astype(np.uint64)
    parts = np.split(np.arange(20), [6, 12, 18])
    nearest, angles, duplicates = compare([(rows, None, tests[rows], hashes[rows]) for rows in parts], centres, digests)
    assert nearest.tolist() == (centres @ tests.T).argmax(axis=1).tolist()
    np.testing.assert_allclose(angles, [angles_to(tests, centre).min() for centre in centres], atol=0.01)
    assert duplicates == [(i, j) for i in range(30) for j in range(20) if digests[i] == hashes[j]] != []


class Page(HTMLParser):
    """The keys, checked choices and pictures of a page."""

    def __init__(self, path):
        super().__init__()
        self.keys, self.checked, self.pictures, self.text = [], [], [], path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.keys += [attributes["data-key"]] if tag == "fieldset" else []
        self.checked += [attributes["value"]] if "checked" in attributes else []
        self.pictures += [attributes["src"]] if tag == "img" else []


@settings(deadline=None, max_examples=25)
@given(counts=st.lists(st.integers(0, 9), max_size=12), per_page=st.integers(1, 5))
def test_pages_are_bounded_and_complete(tmp_path_factory, counts, per_page):
    folder, numbers = tmp_path_factory.mktemp("pages"), itertools.count()
    groups = [Group(f"<b> {k}", [b"a"], [Card((k, next(numbers)), [b"b", b"\x89PNG"], "<i>", "drop")
                                         for _ in range(count)]) for k, count in enumerate(counts)]
    pages = write_pages(folder, iter(groups), ("identity", "record"), ("keep", "drop"), "well?", per_page)
    read = [Page(folder / f"page-{number:04d}.html") for number in range(1, pages + 1)]
    assert [key for page in read for key in page.keys] == [
        f"{k},{number}" for group in groups for k, number in (card.key for card in group.cards)]
    assert all(1 <= len(page.keys) <= per_page and page.checked == ["drop"] * len(page.keys) for page in read)
    assert all("<b>" not in page.text and "<i>" not in page.text and "identity,record,decision" in page.text
               and f'link.download = "{folder.name}-page-' in page.text
               and not re.search("https?:|<link|src=\"(?!data:)", page.text) for page in read)
    assert {picture[:15] for page in read for picture in page.pictures} <= {"data:image/jpeg", "data:image/png;"}
    assert re.findall('href="(.*?)"', (folder / "index.html").read_text()) == [
        f"page-{number:04d}.html" for number in range(1, pages + 1)]
