"""The tables of the index and how older layouts become the current one.

``PRAGMA user_version`` holds the layout's number. `UPGRADES[n]` leads from n to n + 1; it runs after a copy was made.
A label is `active` until it is removed, and `shown` while its image is present as well; triggers keep `shown` and
`waiting` (present, and without a shown ``final`` label) of images and scores in step, so that lists are index look-ups.
"""

from __future__ import annotations

from labelserver.datastore import work_schema

VERSION = 5

_TRIGGERS = """
CREATE TRIGGER image_state_shows_labels AFTER UPDATE OF state ON images WHEN NEW.state <> OLD.state BEGIN
    UPDATE labels SET shown = (active AND NEW.state = 'present') WHERE image_id = NEW.id;
    UPDATE images SET waiting = (NEW.state = 'present' AND NOT EXISTS (
        SELECT 1 FROM labels WHERE image_id = NEW.id AND tag = 'final' AND shown = 1)) WHERE id = NEW.id;
END;
CREATE TRIGGER image_added_waits AFTER INSERT ON images WHEN NEW.state = 'present' BEGIN
    UPDATE images SET waiting = NOT EXISTS (
        SELECT 1 FROM labels WHERE image_id = NEW.id AND tag = 'final' AND shown = 1) WHERE id = NEW.id;
END;
CREATE TRIGGER image_waiting_is_score_waiting AFTER UPDATE OF waiting ON images WHEN NEW.waiting <> OLD.waiting BEGIN
    UPDATE scores SET waiting = NEW.waiting WHERE image_id = NEW.id;
END;
CREATE TRIGGER label_added_ends_waiting AFTER INSERT ON labels WHEN NEW.tag = 'final' AND NEW.shown = 1 BEGIN
    UPDATE images SET waiting = 0 WHERE id = NEW.image_id;
END;
CREATE TRIGGER label_shown_changes_waiting AFTER UPDATE OF shown ON labels
WHEN NEW.tag = 'final' AND NEW.shown <> OLD.shown BEGIN
    UPDATE images SET waiting = (NEW.shown = 0 AND state = 'present') WHERE id = NEW.image_id;
END;
"""

_SIDES = """
CREATE TABLE sides (                       -- what each image is for; a row is never changed but by what `sides.py` says
    number INTEGER PRIMARY KEY,            -- the order in which images were first seen
    image_id TEXT NOT NULL UNIQUE,
    subject TEXT NOT NULL,                 -- whose image it is, hashed with the project's key
    side TEXT NOT NULL,
    content TEXT                           -- hash of the voxels; NULL: not read yet; '-': cannot be read
);
CREATE INDEX sides_by_subject ON sides (subject, side);
CREATE INDEX sides_by_content ON sides (content) WHERE content IS NOT NULL;
CREATE TABLE unsided (number INTEGER PRIMARY KEY, image_id TEXT NOT NULL UNIQUE);  -- images that have no row there yet
CREATE TRIGGER image_added_has_no_side AFTER INSERT ON images BEGIN
    INSERT OR IGNORE INTO unsided (image_id) VALUES (NEW.id);
END;
CREATE TRIGGER image_replaced_was_not_read AFTER UPDATE OF size_bytes, mtime_ns ON images
WHEN NEW.size_bytes <> OLD.size_bytes OR NEW.mtime_ns <> OLD.mtime_ns BEGIN
    UPDATE sides SET content = NULL WHERE image_id = NEW.id;
END;
"""

UPGRADES: dict[int, str] = {
    1: "CREATE INDEX audit_by_image ON audit (image_id, tag, revision)",
    2: """
ALTER TABLE images ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;
DROP TRIGGER image_state_shows_labels;
DROP TRIGGER label_added_ends_waiting;
DROP TRIGGER label_shown_changes_waiting;
UPDATE images SET waiting = 1 WHERE state = 'present' AND NOT EXISTS (
    SELECT 1 FROM labels WHERE image_id = images.id AND tag = 'final' AND shown = 1);
CREATE INDEX images_waiting ON images (id) WHERE waiting = 1;
"""  # noqa: S608  constants
    + _TRIGGERS,
    3: _SIDES + "INSERT INTO unsided (image_id) SELECT id FROM images ORDER BY added_ts, id",  # noqa: S608  constants
    4: work_schema.UPGRADE,
}

TABLES = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE images (
    id TEXT NOT NULL PRIMARY KEY,
    path TEXT NOT NULL,                    -- below the images folder, '/' between parts; a folder for DICOM
    series TEXT NOT NULL DEFAULT '',       -- SeriesInstanceUID
    kind TEXT NOT NULL,
    ext TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('present', 'absent', 'removed')),
    size_bytes INTEGER NOT NULL DEFAULT 0,
    mtime_ns INTEGER NOT NULL DEFAULT 0,
    added_ts REAL NOT NULL,
    info TEXT NOT NULL DEFAULT '{}',
    waiting INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX images_by_place ON images (path, series);
CREATE INDEX images_by_state ON images (state, id);
CREATE INDEX images_waiting ON images (id) WHERE waiting = 1;

CREATE TABLE folders (                     -- folders with DICOM files, so that unchanged ones are not read again
    path TEXT PRIMARY KEY,
    signature TEXT NOT NULL,
    series TEXT NOT NULL                   -- [{uid, files, grid, problem}]
) WITHOUT ROWID;

CREATE TABLE labels (
    image_id TEXT NOT NULL,
    tag TEXT NOT NULL,
    position INTEGER NOT NULL,             -- order in which the tags of an image were first saved
    current INTEGER NOT NULL,              -- revision number
    active INTEGER NOT NULL,
    shown INTEGER NOT NULL,
    pending INTEGER NOT NULL DEFAULT 0,    -- label_rows.Placing: is the file below labels/ surely this revision?
    file TEXT NOT NULL,                    -- below labels/<tag>/
    ext TEXT NOT NULL,
    size_bytes INTEGER NOT NULL DEFAULT 0, -- of that file when we last wrote or checked it
    mtime_ns INTEGER NOT NULL DEFAULT 0,
    info TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (image_id, tag)
);
CREATE UNIQUE INDEX labels_by_file ON labels (tag, file);
CREATE INDEX labels_pending ON labels (pending, mtime_ns) WHERE pending <> 0;
CREATE INDEX labels_shown ON labels (tag, image_id) WHERE shown = 1;

CREATE TABLE revisions (
    image_id TEXT NOT NULL,
    tag TEXT NOT NULL,
    number INTEGER NOT NULL,
    ext TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    parent INTEGER,
    created_ts REAL NOT NULL,
    person TEXT NOT NULL,
    client TEXT NOT NULL,
    source TEXT NOT NULL,
    model TEXT NOT NULL,
    model_version TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    info TEXT NOT NULL,
    PRIMARY KEY (image_id, tag, number)
);

CREATE TABLE scores (
    image_id TEXT NOT NULL,
    key TEXT NOT NULL,
    value REAL NOT NULL,
    waiting INTEGER NOT NULL,
    PRIMARY KEY (image_id, key)
) WITHOUT ROWID;
CREATE INDEX scores_by_value ON scores (key, waiting, value DESC, image_id);

CREATE TABLE reviews (
    number INTEGER PRIMARY KEY,
    image_id TEXT NOT NULL,
    tag TEXT NOT NULL,
    revision INTEGER NOT NULL,
    person TEXT NOT NULL,
    verdict TEXT NOT NULL,
    comment TEXT NOT NULL DEFAULT '',
    created_ts REAL NOT NULL
);
CREATE INDEX reviews_by_label ON reviews (image_id, tag, revision);

CREATE TABLE audit (                       -- append-only; hash covers the row and the hash before it
    number INTEGER PRIMARY KEY,
    created_ts REAL NOT NULL,
    person TEXT NOT NULL,
    action TEXT NOT NULL,
    image_id TEXT NOT NULL,
    tag TEXT NOT NULL DEFAULT '',
    revision INTEGER,
    detail TEXT NOT NULL DEFAULT '{}',
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE INDEX audit_by_image ON audit (image_id, tag, revision);

CREATE TABLE problems (
    path TEXT NOT NULL,
    origin TEXT NOT NULL,                  -- images, labels, peer, state, audit, kept: what a new look replaces
    reason TEXT NOT NULL,
    PRIMARY KEY (path, origin)
) WITHOUT ROWID;
"""
    + _TRIGGERS
    + _SIDES
    + work_schema.WORK
)
