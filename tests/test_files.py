"""Files: whole or not there; a journal that survives a kill."""

import json
import os
import stat

import pytest

from neuroscope.errors import FileError
from neuroscope.files import Journal, digest, read_json, versions, write


def test_write_makes_folders_and_takes_text_bytes_and_functions(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    assert write(path, "ä") == path
    assert path.read_bytes() == "ä".encode()
    write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    given = []
    write(path, lambda partial: (given.append(partial), partial.write_text("new"))[1])
    assert path.read_text() == "new"
    assert given[0].parent == path.parent  # on the same disk, so that moving it is atomic
    assert given[0].suffix == ".txt"  # for writers that go by the name
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = write(tmp_path / "file.bin", b"old")

    def half(partial):
        partial.write_bytes(b"ne")
        raise error

    with pytest.raises(error):
        write(path, half)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_the_users_mask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        path = write(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    write(tmp_path / "file", "x")
    for path in (tmp_path / "file" / "below", tmp_path):  # a folder below a file, a file in the place of a folder
        with pytest.raises(FileError, match=r"(?s)write .*found.*do:    give a path that can be written to"):
            write(path, "y")
    assert os.listdir(tmp_path) == ["file"]
    assert sorted(os.listdir(tmp_path.parent)).count(f".{tmp_path.name}") == 0
    assert [n for n in os.listdir(tmp_path.parent) if n.startswith(f".{tmp_path.name}.")] == []


def test_read_json_names_what_is_wrong(tmp_path):
    assert read_json(write(tmp_path / "good", '{"a": [1]}'), "labels") == {"a": [1]}
    with pytest.raises(FileError, match=r"(?s)read labels from .*missing.*No such file.*check the path"):
        read_json(tmp_path / "missing", "labels")
    for content in (b'{"a": [1', b"", b"\xff\xfe\x00", b"[" * 100_000):
        with pytest.raises(FileError, match=r"(?s)read labels from .*bad.*not JSON.*truncated or of another kind"):
            read_json(write(tmp_path / "bad", content), "labels")


def test_digest_changes_with_every_part():
    assert digest(1, "a") == digest(1, "a")
    assert len({digest(1, "a"), digest(1, "b"), digest("1", "a"), digest(1, "a", None), digest("1a")}) == 5
    assert len(digest()) == 16
    assert int(digest(), 16) >= 0


def test_a_journal_measures_once_also_after_a_restart(tmp_path):
    path, calls = tmp_path / "deep" / "journal.jsonl", []

    def measure(value):
        calls.append(value)
        return value

    journal = Journal(path)
    assert not path.parent.exists()  # nothing is written before there is something to write
    values = [0.1 + 0.2, [1.0, 1 / 3], None]
    for _ in range(2):
        assert [journal.get(str(i), lambda v=v: measure(v)) for i, v in enumerate(values)] == values
    assert calls == values
    again = Journal(path)
    assert [again.get(str(i), lambda: pytest.fail("measured again")) for i in range(3)] == values
    memory = Journal()
    assert memory.get("a", lambda: 1) == memory.get("a", lambda: 2) == 1


def test_a_cut_off_last_line_is_measured_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for key in "abc":
        journal.get(key, lambda key=key: [key] * 3)
    whole = path.read_text()
    for cut in range(whole.rstrip().rfind("\n") + 2, len(whole)):  # anywhere in the last line, its line break included
        path.write_text(whole[:cut])
        again = Journal(path)
        assert set(again.known) == {"a", "b"}
        assert again.get("c", lambda: ["c"] * 3) == ["c"] * 3
        assert path.read_text() == whole
    path.write_text("")
    assert Journal(path).known == {}


def test_a_measurement_that_fails_is_not_written(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.get("a", lambda: 1)
    with pytest.raises(ZeroDivisionError):
        journal.get("b", lambda: 1 / 0)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [["a", 1]]
    assert journal.get("b", lambda: 2) == 2


@pytest.mark.parametrize(
    "content", [b"not json\n", b'["a"]\n', b"3\n", b"\xff\xfe\n", b'["a", 1]\n{"x": 1\n["b", 2]\n']
)
def test_a_file_that_is_no_journal_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"(?s)read the journal .*give another path, or delete the file"):
        Journal(path)
    assert path.read_bytes() == content


def test_versions_name_the_packages():
    found = versions()
    assert found["python"].startswith("3.")
    assert {"neuroscope", "torch", "transformers"} <= set(found)
