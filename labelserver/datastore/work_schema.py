"""Tables, columns and triggers of the work of several people: layout 5 of the index.

Triggers keep each image's `stage` (`domain.work.Stage`, leases apart) in step with labels, reviews and flags, and
`open` (present, and somebody should still be given it) of images and scores with the stage, whoever writes a label, so
that choosing the next image is an index look-up.
"""
# ruff: noqa: S608  statements are put together from constants alone

from __future__ import annotations

#: Of a reading; GLOB, because LIKE takes "_" for any character.
IS_READING = "GLOB 'reader_[0-9]*'"

_VERDICT = """(SELECT verdict FROM reviews WHERE reviews.image_id = labels.image_id AND reviews.tag = labels.tag
    AND reviews.revision = labels.current ORDER BY reviews.number DESC LIMIT 1)"""

#: The verdict on a label's current revision, inside a statement about `labels`.
VERDICT_OF_LABEL = _VERDICT

#: The person who first saved a label, inside a statement about `labels`.
FIRST_AUTHOR = (
    "(SELECT revisions.person FROM revisions WHERE revisions.image_id = labels.image_id "
    "AND revisions.tag = labels.tag ORDER BY revisions.number LIMIT 1)"
)

_SUBMITTED_READINGS = (
    f"SELECT COUNT(*) FROM labels WHERE image_id = {{id}} AND tag {IS_READING} AND shown = 1 "
    f"AND COALESCE({_VERDICT}, '') <> 'returned'"
)

_STAGE = f"""CASE WHEN EXISTS (SELECT 1 FROM flags WHERE image_id = {{id}}) THEN 'flagged' ELSE COALESCE(
    (SELECT COALESCE({_VERDICT}, 'submitted') FROM labels WHERE image_id = {{id}} AND tag = 'final' AND shown = 1),
    (SELECT CASE WHEN NOT EXISTS (
            SELECT 1 FROM labels WHERE image_id = {{id}} AND tag {IS_READING} AND shown = 1) THEN 'unlabeled'
        WHEN ({_SUBMITTED_READINGS}) < own.readers THEN 'draft' ELSE 'submitted' END
     FROM images AS own WHERE own.id = {{id}})) END"""


def submitted_readings(image_id: str) -> str:
    """A query for their number; `image_id` is an SQL expression."""
    return _SUBMITTED_READINGS.format(id=image_id)


def _set_stage(image_id: str) -> str:
    return f"UPDATE images SET stage = {_STAGE.format(id=image_id)} WHERE id = {image_id};"


_TABLES = """
CREATE TABLE leases (
    id TEXT PRIMARY KEY,
    image_id TEXT NOT NULL,
    person TEXT NOT NULL,
    tag TEXT NOT NULL,
    strategy TEXT NOT NULL,
    reason TEXT NOT NULL,
    roi TEXT NOT NULL,                     -- '' for the whole image
    granted_ts REAL NOT NULL,
    until_ts REAL NOT NULL,
    length_s REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX leases_by_image ON leases (image_id, until_ts);
CREATE INDEX leases_by_person ON leases (person, until_ts);
CREATE INDEX leases_by_end ON leases (until_ts);

CREATE TABLE flags (
    image_id TEXT PRIMARY KEY,
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_ts REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE skips (
    image_id TEXT NOT NULL,
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_ts REAL NOT NULL,
    PRIMARY KEY (image_id, person)
) WITHOUT ROWID;

CREATE TABLE time_log (                    -- one piece of work: one person on one image until he submits
    number INTEGER PRIMARY KEY,
    image_id TEXT NOT NULL,
    person TEXT NOT NULL,
    opened_ts REAL NOT NULL,
    edited_ts REAL,                        -- the first edit
    seen_ts REAL NOT NULL,                 -- the newest sign of life
    active_s REAL NOT NULL DEFAULT 0,      -- between signs of life, gaps of more than a minute cut
    prompts INTEGER NOT NULL DEFAULT 0,
    submitted_ts REAL,
    tag TEXT NOT NULL DEFAULT '',
    revision INTEGER,
    model TEXT NOT NULL DEFAULT '',        -- that made the proposal; '': drawn from nothing
    model_version TEXT NOT NULL DEFAULT '',
    proposal_tag TEXT NOT NULL DEFAULT '',
    proposal_revision INTEGER,
    measured INTEGER NOT NULL DEFAULT 0,   -- proposal and submitted label were compared, or cannot be
    voxels_changed INTEGER,
    voxels INTEGER,                        -- foreground of proposal or label
    proposal_dice REAL
);
CREATE INDEX time_log_by_image ON time_log (image_id, person, number);
CREATE INDEX time_log_submitted ON time_log (submitted_ts) WHERE submitted_ts IS NOT NULL;
CREATE INDEX time_log_to_measure ON time_log (number) WHERE submitted_ts IS NOT NULL AND measured = 0;
"""

_COLUMNS = """
ALTER TABLE images ADD COLUMN readers INTEGER NOT NULL DEFAULT 1;
ALTER TABLE images ADD COLUMN stage TEXT NOT NULL DEFAULT 'unlabeled';
ALTER TABLE images ADD COLUMN open INTEGER NOT NULL DEFAULT 0;
ALTER TABLE scores ADD COLUMN open INTEGER NOT NULL DEFAULT 0;
CREATE INDEX images_open ON images (id) WHERE open = 1;
CREATE INDEX images_by_stage ON images (stage, id) WHERE state = 'present';
CREATE INDEX reviews_returned ON reviews (image_id, tag, revision) WHERE verdict = 'returned';
CREATE INDEX scores_open ON scores (key, value DESC, image_id) WHERE open = 1;
"""

_TRIGGERS = f"""
CREATE TRIGGER image_added_waits AFTER INSERT ON images WHEN NEW.state = 'present' BEGIN
    UPDATE images SET open = 1, stage = {_STAGE.format(id="NEW.id")}, waiting = NOT EXISTS (
        SELECT 1 FROM labels WHERE image_id = NEW.id AND tag = 'final' AND shown = 1) WHERE id = NEW.id;
END;
CREATE TRIGGER image_state_opens AFTER UPDATE OF state ON images WHEN NEW.state <> OLD.state BEGIN
    UPDATE images SET open = (NEW.state = 'present' AND stage IN ('unlabeled', 'draft', 'returned')) WHERE id = NEW.id;
END;
CREATE TRIGGER image_stage_opens AFTER UPDATE OF stage ON images WHEN NEW.stage <> OLD.stage BEGIN
    UPDATE images SET open = (state = 'present' AND NEW.stage IN ('unlabeled', 'draft', 'returned')) WHERE id = NEW.id;
END;
CREATE TRIGGER image_open_is_score_open AFTER UPDATE OF open ON images WHEN NEW.open <> OLD.open BEGIN
    UPDATE scores SET open = NEW.open WHERE image_id = NEW.id;
END;
CREATE TRIGGER image_readers_change_stage AFTER UPDATE OF readers ON images WHEN NEW.readers <> OLD.readers BEGIN
    {_set_stage("NEW.id")}
END;
CREATE TRIGGER score_added_is_open AFTER INSERT ON scores BEGIN
    UPDATE scores SET open = COALESCE((SELECT open FROM images WHERE id = NEW.image_id), 0)
    WHERE image_id = NEW.image_id AND key = NEW.key;
END;
CREATE TRIGGER label_added_changes_stage AFTER INSERT ON labels
WHEN NEW.shown = 1 AND (NEW.tag = 'final' OR NEW.tag {IS_READING}) BEGIN
    {_set_stage("NEW.image_id")}
END;
CREATE TRIGGER label_changes_stage AFTER UPDATE OF shown, current ON labels
WHEN (NEW.tag = 'final' OR NEW.tag {IS_READING}) AND (NEW.shown <> OLD.shown OR NEW.current <> OLD.current) BEGIN
    {_set_stage("NEW.image_id")}
END;
CREATE TRIGGER review_changes_stage AFTER INSERT ON reviews BEGIN
    {_set_stage("NEW.image_id")}
END;
CREATE TRIGGER flag_changes_stage AFTER INSERT ON flags BEGIN
    {_set_stage("NEW.image_id")}
END;
CREATE TRIGGER flag_gone_changes_stage AFTER DELETE ON flags BEGIN
    {_set_stage("OLD.image_id")}
END;
"""

#: Behind the tables of layout 4, which had unused tables for leases and times.
WORK = f"""
DROP TABLE IF EXISTS leases;
DROP TABLE IF EXISTS time_log;
DROP TRIGGER IF EXISTS image_added_waits;
{_TABLES}{_COLUMNS}{_TRIGGERS}"""

UPGRADE = f"""{WORK}
UPDATE images SET stage = {_STAGE.format(id="images.id")};
UPDATE images SET open = 1 WHERE state = 'present' AND stage IN ('unlabeled', 'draft', 'returned');
"""
