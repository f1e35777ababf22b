"""Saving over an older file: a write that fails leaves it, rights and links stay."""

import os
import resource
import signal
import subprocess
import sys

import pytest
from single import short

import gplsq


def test_a_full_disk_leaves_the_old_file_as_it_was(table, small, path):
    X, y, _ = table
    path.write_bytes(small[1])
    gp = short().fit(X, y)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            gp.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == small[1]
    assert os.listdir(path.parent) == [path.name]
    gp.save(path)
    assert path.read_bytes() != small[1]


def test_a_killed_process_leaves_the_old_file_as_it_was(small, path):
    path.write_bytes(small[1])
    code = (
        "import os, signal, sys, gplsq\n"
        "gp = gplsq.load(sys.argv[1])\n"
        "gp.solver_report_ = 'other'\n"
        "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "gp.save(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == small[1]
    left = [name for name in os.listdir(path.parent) if name != path.name]
    assert len(left) == 1
    assert left[0].endswith(".part")


def test_rights_and_links_are_kept(small, tmp_path):
    gp = gplsq.load(small[0])
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    gp.save(link)
    assert link.is_symlink()
    assert target.read_bytes() == small[1]
    assert target.stat().st_mode & 0o777 == 0o640


def test_places_that_cannot_be_written_are_refused(small, tmp_path):
    gp = gplsq.load(small[0])
    with pytest.raises(FileNotFoundError):
        gp.save(tmp_path / "no" / "folder")
    with pytest.raises(OSError, match="is not a file"):
        gp.save(tmp_path)
    with pytest.raises(TypeError):
        gp.save(None)
