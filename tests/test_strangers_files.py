"""Names of tasks never lead out of a folder; files have the user's modes; what cannot be written is said."""

import os
import stat
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from tiny import WORDS, tiny_model

import neuroscope as ns
from neuroscope import files
from neuroscope.errors import FileError
from neuroscope.tasks import Example, Task

HOSTILE = [
    "../../evil",
    "/tmp/absolute",
    "a" * 250,
    "Case",
    "case",
    "..",
    ".",
    "a/b",
    "a\\b",
    "nul\0",
    "é",
    "\ud800",
    "%2e",
]


@given(st.text(min_size=1, max_size=30))
def test_a_name_is_encoded_and_read_back(name):
    encoded = files.encoded(name)
    assert set(encoded) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_%ABCDEF") and encoded.strip("%")
    if len(encoded) < files.LONGEST_NAME - 1 and name.isprintable():
        assert unquote(encoded) == name


def test_names_stay_apart_and_short():
    encoded = [files.encoded(name) for name in [*HOSTILE, "a" * 251, ""]]
    assert len({e.lower() for e in encoded}) == len(encoded)  # also where a file system ignores case
    assert max(map(len, encoded)) <= files.LONGEST_NAME and min(map(len, encoded)) >= 1


def test_a_run_writes_inside_its_folder_only(tmp_path):
    def task(name, offset):
        words = [" ".join(WORDS[i + offset : i + offset + 3]) for i in range(6)]
        return Task(name, train=[Example(w, "good") for w in words], test=[Example(f"so {w}", "bad") for w in words],
                    labels=("good", "bad"))  # fmt: skip

    tasks = {name: task(name, i) for i, name in enumerate(HOSTILE[:4])}
    output = tmp_path / "inner" / "output"
    before = set(tmp_path.rglob("*"))
    ns.run(tiny_model(), tasks, output=output, examples=4, n=4, n_random=3)
    assert all(path == output.parent or output in [path, *path.parents] for path in set(tmp_path.rglob("*")) - before)
    for folder in ("scores", "masks"):
        assert len(list((output / folder).iterdir())) == len(tasks)
    reps = ns.representations(tiny_model(), tasks, n=2, output=tmp_path / "reps")
    assert list(ns.Representations.load(tmp_path / "reps")) == list(reps) == list(tasks)
    assert not (tmp_path.parent / "evil.safetensors").exists()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_saved_files_have_the_users_usual_modes(tmp_path, umask):
    mask = ns.NeuronMask.of({"blocks.0.mlp.hook_post": [1]}, {"blocks.0.mlp.hook_post": 4})
    before = os.umask(umask)
    try:
        for path in (mask.save(tmp_path / "mask.safetensors"), files.write(tmp_path / "text.txt", "text")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    finally:
        os.umask(before)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "mask.safetensors", tmp_path / "link.safetensors"
    target.write_text("old")
    link.symlink_to(target)
    mask = ns.NeuronMask.of({"blocks.0.mlp.hook_post": [1]}, {"blocks.0.mlp.hook_post": 4})
    mask.save(link)
    assert link.is_symlink() and ns.NeuronMask.load(target) == mask


@pytest.mark.parametrize("error", [SafetensorError("No space left on device"), OSError(28, "No space left on device")])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, error):
    def fail(partial):
        partial.write_text("half")
        raise error

    (tmp_path / "file.safetensors").write_text("old")
    with pytest.raises(FileError, match="No space left"):
        files.write(tmp_path / "file.safetensors", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["file.safetensors"]
    assert (tmp_path / "file.safetensors").read_text() == "old"


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    mask = ns.NeuronMask.of({"blocks.0.mlp.hook_post": [1]}, {"blocks.0.mlp.hook_post": 4})
    with pytest.raises(FileError, match="write .*mask"):
        mask.save(tmp_path / "file" / "mask.safetensors")
