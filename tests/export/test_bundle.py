"""Publishing whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import export.bundle
from export.bundle import OWN_FILE, check_destination, write_bundle
from s2d_trt.bundle import Bundle
from s2d_trt.errors import OptionError
from s2d_trt.manifest import MANIFEST, Manifest


@pytest.fixture
def bundle(draft_bundle, tmp_path):
    """A copy of the draft's bundle that a test may overwrite."""
    return Path(shutil.copytree(draft_bundle, tmp_path / "draft.engine"))


def rewrite(out: Path, content: bytes) -> str:
    """Replace the bundle at ``out`` by one with a single file of that content."""
    return rewrite_with(Bundle.open(out).manifest, out, content)


def rewrite_with(manifest: Manifest, out: Path, content: bytes) -> str:
    with write_bundle(out) as writer:
        name = writer.add("weights.bin", content * 2**18)  # no smaller than the model that the manifest describes
        tokenizer = dataclasses.replace(manifest.tokenizer, file=name)
        writer.commit(dataclasses.replace(manifest, files=writer.files, weights=name, graphs={}, tokenizer=tokenizer))
    return name


def test_files_are_named_by_their_content(bundle):
    first = rewrite(bundle, b"one")
    assert first == rewrite(bundle, b"one") != rewrite(bundle, b"two")
    assert OWN_FILE.fullmatch(first)


def test_a_commit_removes_what_the_manifest_no_longer_names(bundle):
    name = rewrite(bundle, b"new")
    assert sorted(path.name for path in bundle.iterdir()) == sorted([MANIFEST, name])
    Bundle.open(bundle, verify=True)


@pytest.mark.parametrize("error", [RuntimeError("torn"), KeyboardInterrupt()])
def test_a_build_that_fails_leaves_the_old_bundle_byte_for_byte(bundle, snapshot, error):
    before = snapshot(bundle)

    def torn():
        with write_bundle(bundle) as writer:
            writer.add("weights.bin", b"half")
            raise error

    with pytest.raises(type(error)):
        torn()
    assert snapshot(bundle) == before


def test_a_first_build_that_fails_leaves_no_directory(tmp_path):
    def torn():
        with write_bundle(tmp_path / "new.engine") as writer:
            writer.add("weights.bin", b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        torn()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", range(1, 6))
def test_a_failure_at_any_moment_of_the_commit_leaves_the_old_bundle(bundle, snapshot, monkeypatch, step):
    before, calls = snapshot(bundle), []
    real = Path.replace

    def failing(path, other):
        calls.append(path)
        if len(calls) == step:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, other)

    manifest = Bundle.open(bundle).manifest
    monkeypatch.setattr(Path, "replace", failing)

    def build():
        with write_bundle(bundle) as writer:
            weights = writer.add("weights.bin", b"new")
            writer.add("tokenizer.json", b"{}")
            writer.commit(dataclasses.replace(manifest, files=writer.files, weights=weights))

    with pytest.raises(OptionError, match=r"cannot be written.*No space left"):
        build()
    assert snapshot(bundle) == before


KILLED = """
import dataclasses, os, signal, sys
from pathlib import Path
import export.bundle
from s2d_trt.bundle import Bundle
out, at = Path(sys.argv[1]), sys.argv[2]
old = Bundle.open(out).manifest
with export.bundle.write_bundle(out) as writer:
    weights = writer.add("weights.bin", b"new")
    if at == "commit":
        sync = export.bundle._sync
        export.bundle._sync = lambda path: os.kill(os.getpid(), signal.SIGKILL) if path == out else sync(path)
        writer.commit(dataclasses.replace(old, files=writer.files, weights=weights))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["writing", "commit"])
def test_a_killed_build_leaves_a_whole_bundle_and_the_next_build_tidies_up(bundle, snapshot, moment):
    before = snapshot(bundle)
    process = subprocess.run([sys.executable, "-c", KILLED, str(bundle), moment], check=False)
    assert process.returncode == -signal.SIGKILL
    after = snapshot(bundle)
    assert before.items() < after.items()
    Bundle.open(bundle, verify=True)
    with write_bundle(bundle):
        pass
    assert snapshot(bundle) == before


def test_two_builds_cannot_write_one_bundle_at_a_time(bundle):
    with write_bundle(bundle), pytest.raises(OptionError, match="another build is writing"), write_bundle(bundle):
        pass
    with write_bundle(bundle):
        pass


def test_files_that_the_user_put_beside_a_bundle_stay(bundle):
    (bundle / "notes.txt").write_text("mine")
    rewrite(bundle, b"new")
    assert (bundle / "notes.txt").read_text() == "mine"


def test_a_directory_that_is_no_bundle_is_refused_and_untouched(tmp_path, snapshot):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = snapshot(tmp_path)
    with pytest.raises(OptionError, match="is a directory but not a bundle"), write_bundle(tmp_path):
        pass
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("text", ['{"name": "a web page"}', "[]", "{"])
def test_a_foreign_manifest_does_not_make_a_bundle(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(OptionError, match="not a bundle"):
        check_destination(tmp_path)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "draft.engine").write_text("")
    with pytest.raises(OptionError, match="is not a directory"):
        check_destination(tmp_path / "draft.engine")


def test_an_empty_directory_and_a_damaged_bundle_may_be_built_over(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    check_destination(tmp_path / "empty")
    manifest = Bundle.open(bundle).manifest
    (bundle / MANIFEST).write_text("{")
    weights = rewrite_with(manifest, bundle, b"new")
    assert sorted(path.name for path in bundle.iterdir()) == sorted([MANIFEST, weights])


def test_a_parent_that_is_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "engines").write_text("")
    with pytest.raises(OptionError, match="cannot be written"), write_bundle(tmp_path / "engines" / "draft.engine"):
        pass


def test_the_manifest_is_replaced_after_every_file_is_on_the_disk(bundle, monkeypatch):
    moves, synced = [], []
    real_replace, real_fsync = Path.replace, os.fsync
    monkeypatch.setattr(Path, "replace", lambda path, other: (moves.append(other), real_replace(path, other))[1])
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(len(moves)), real_fsync(handle))[1])
    name = rewrite(bundle, b"new")
    assert [path.name for path in moves if path.parent == bundle] == [name, MANIFEST]
    # Both files before the first move, the directory between the moves, the directory after the last.
    assert synced == [1, 1, 2, 3]


def test_the_module_names_partial_directories_so_that_they_cannot_be_bundle_files():
    assert not OWN_FILE.fullmatch(f"{export.bundle.PARTIAL_PREFIX}abc")
