"""A crash may cost the last line, never an earlier one."""

from __future__ import annotations

from labelserver.storage.append import JsonLinesReader, JsonLinesWriter, append_json_line, read_json_lines


def test_a_torn_last_line_is_skipped_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    append_json_line(path, {"n": 1})
    with path.open("ab") as stream:
        stream.write(b'{"n": 2, "tor')
    append_json_line(path, {"n": 3})
    assert [line["n"] for line in read_json_lines(path)] == [1, 3]


def test_a_reader_sees_each_line_once_and_waits_for_its_end(tmp_path):
    path = tmp_path / "events.jsonl"
    reader = JsonLinesReader(path)
    assert reader.read_new() == []
    writer = JsonLinesWriter(path)
    writer.append({"n": 1})
    with path.open("ab") as stream:
        stream.write(b'{"n":')
        stream.flush()
        assert [line["n"] for line in reader.read_new()] == [1]
        stream.write(b"2}\n")
    assert [line["n"] for line in reader.read_new()] == [2]
    writer.close()


def test_foreign_lines_are_skipped(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'[1]\n\xff\xfe\n{"n":1}\nnonsense\n')
    assert read_json_lines(path) == [{"n": 1}]
