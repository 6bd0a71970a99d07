"""One event a line, with its fields."""

import logging

from labelserver.storage.log_lines import EventFormatter, with_fields


def record(message, *args, **fields):
    made = logging.makeLogRecord({"name": "labelserver.x", "levelname": "INFO", "msg": message, "args": args})
    vars(made).update(fields)
    return made


def test_fields_follow_the_message():
    assert with_fields(record("job ended", job_id="3f2b", count=2)) == "job ended job_id=3f2b count=2"
    assert with_fields(record("no fields: %d", 3)) == "no fields: 3"


def test_values_that_could_be_misread_are_quoted():
    assert with_fields(record("x", a="", b="two words", c='say "hi"')) == 'x a="" b="two words" c="say \\"hi\\""'


def test_nobody_can_forge_a_line():
    line = EventFormatter().format(record("image %s", "x\n2026 INFO forged", person="a\r\nb"))
    assert "\n" not in line
    assert line.split(" ", 2)[2].startswith("INFO labelserver.x image")
