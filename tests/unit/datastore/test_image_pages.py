"""Lists in pages: together the pages are the whole list, in its order, whatever is asked."""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path

import pytest

from labelserver.contracts.datastore import ImageListing
from labelserver.datastore import index_schema
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import InvalidParams
from labelserver.domain.ids import FINAL, ORIGINAL, ImageId, Tag
from labelserver.domain.image_lists import ImageQuery, LabelState, ListedImage
from labelserver.domain.labels import Provenance
from tests.support.study_folder import put_image, put_label

NAMES = ["a", "b", "deep/c", "deep/d", "e", "ä f", "g", "h"]
#: c and e tie; h has none
SCORES = {"a": 0.5, "b": -1.0, "deep/c": 2.0, "deep/d": 0.0, "e": 2.0, "ä f": 7.5, "g": 1e-9}
FINALS = ["b", "e", "ä f"]


@pytest.fixture
def store(tmp_path: Path) -> LocalDatastore:
    for name in NAMES:
        put_image(tmp_path / "studies", f"{name}.nii.gz")
    made = LocalDatastore(tmp_path / "studies")
    label = put_label(tmp_path / "l.nii.gz")
    for name, score in SCORES.items():
        made.update_image_info(name, {"my_score": {"score": score}})
    for name in FINALS:
        made.accept_label(ImageId(name), label, ".nii.gz", FINAL, Provenance(), {})
    for name in ("b", "g"):
        made.accept_label(ImageId(name), label, ".nii.gz", ORIGINAL, Provenance(), {})
    return made


def walk(store: LocalDatastore, limit: int, **query: object) -> list[ListedImage]:
    """All pages of `limit`; a page is only short at the end."""
    found: list[ListedImage] = []
    after = ""
    while True:
        page = store.image_page(ImageQuery(limit=limit, after=after, **query))  # type: ignore[arg-type]
        found.extend(page.images)
        if not page.after:
            return found
        assert len(page.images) == limit
        after = page.after


def wanted(state: LabelState, tag: Tag, score: str, highest_first: bool) -> list[str]:
    labeled = FINALS if tag == FINAL else ["b", "g"]
    names = [n for n in sorted(NAMES) if state is LabelState.ALL or (n in labeled) == (state is LabelState.LABELED)]
    if not score:
        return names
    sign = -1 if highest_first else 1
    return sorted((n for n in names if n in SCORES), key=lambda n: (sign * SCORES[n], n))


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("state", "tag", "score", "highest_first"),
    list(itertools.product(LabelState, (FINAL, ORIGINAL), ("", "my_score"), (True, False))),
)
def test_the_pages_are_the_list(
    store: LocalDatastore, limit: int, state: LabelState, tag: Tag, score: str, highest_first: bool
) -> None:
    found = walk(store, limit, state=state, tag=tag, score=score, highest_first=highest_first)
    assert [listed.record.image_id for listed in found] == wanted(state, tag, score, highest_first)
    assert all(listed.score == (SCORES[listed.record.image_id] if score else None) for listed in found)


def test_a_listed_image_tells_its_tags_place_and_info(store: LocalDatastore) -> None:
    by_id = {listed.record.image_id: listed for listed in walk(store, 3)}
    assert by_id[ImageId("b")].tags == ("final", "original")
    assert by_id[ImageId("a")].tags == ()
    assert by_id[ImageId("deep/c")].record == store.image(ImageId("deep/c"))


def test_a_place_of_another_order_is_refused(store: LocalDatastore) -> None:
    for after in ("a", "nan/a", "x/a"):
        with pytest.raises(InvalidParams, match="Send the 'next'"):
            store.image_page(ImageQuery(score="my_score", after=after))


def test_vanished_removed_and_returned_images_and_labels_change_the_lists(
    store: LocalDatastore, tmp_path: Path
) -> None:
    def unlabeled() -> list[str]:
        assert store.get_unlabeled_images() == [i for i, _ in store.unlabeled()]
        assert {i for i, _ in store.sample_unlabeled(100)} == set(store.get_unlabeled_images())
        scored = [i for i, _, _ in store.unlabeled_by_score("my_score")]
        assert set(scored) == set(store.get_unlabeled_images()) - {"h"}
        return store.get_unlabeled_images()

    assert isinstance(store, ImageListing)
    assert unlabeled() == ["a", "deep/c", "deep/d", "g", "h"]
    (tmp_path / "studies" / "a.nii.gz").unlink()
    store.refresh()
    assert unlabeled() == ["deep/c", "deep/d", "g", "h"]
    put_image(tmp_path / "studies", "a.nii.gz")
    store.remove_label("e", "final")
    store.refresh()
    assert unlabeled() == ["a", "deep/c", "deep/d", "e", "g", "h"]
    store.remove_image("ä f")
    store.remove_image("g")
    assert unlabeled() == ["a", "deep/c", "deep/d", "e", "h"]
    store.restore_image(ImageId("g"))
    store.restore_image(ImageId("ä f"))
    assert unlabeled() == ["a", "deep/c", "deep/d", "e", "g", "h"]
    assert [i for i, _ in store.unlabeled(last_first=True)] == unlabeled()[::-1]


def test_samples_are_even_whether_unlabeled_images_are_many_or_rare(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    store = LocalDatastore(tmp_path / "studies")
    with sqlite3.connect(tmp_path / "studies" / ".labelserver" / "index.sqlite") as index:
        index.executemany(
            "INSERT INTO images (id, path, kind, ext, state, added_ts) "
            "VALUES (?, ?, 'volume', '.nii.gz', 'present', 0)",
            [(f"i{n:04}", f"i{n:04}.nii.gz") for n in range(2000)],
        )
    assert len({i for _ in range(20) for i, _ in store.sample_unlabeled(10)}) > 150
    with sqlite3.connect(tmp_path / "studies" / ".labelserver" / "index.sqlite") as index:
        index.execute("UPDATE images SET waiting = 0 WHERE id NOT IN ('i0007', 'i1999', 'i0900')")
    index.close()
    assert {i for i, _ in store.sample_unlabeled(10)} == {"i0007", "i0900", "i1999"}
    assert {store.sample_unlabeled(1)[0][0] for _ in range(60)} == {"i0007", "i0900", "i1999"}


def test_an_index_of_the_layout_before_gets_its_lists(
    store: LocalDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [listed.record.image_id for listed in walk(store, 3, state=LabelState.UNLABELED)]
    store.close()
    file = tmp_path / "studies" / ".labelserver" / "index.sqlite"
    with sqlite3.connect(file) as index:
        index.executescript(
            """DROP TRIGGER image_added_waits; DROP TRIGGER image_waiting_is_score_waiting;
            DROP INDEX images_waiting; ALTER TABLE images RENAME COLUMN waiting TO gone; PRAGMA user_version = 2"""
        )
    index.close()
    monkeypatch.setattr(index_schema, "VERSION", 3)
    again = LocalDatastore(tmp_path / "studies")
    assert [listed.record.image_id for listed in walk(again, 3, state=LabelState.UNLABELED)] == before
