"""What a worker process is started with."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from app.worker.channel import child_environment


def test_a_child_finds_this_app_wherever_it_is_started(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    program = "import app.settings, sys; print('/somewhere/else' in sys.path)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


def test_glibc_is_told_to_keep_memory_but_for_what_the_user_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    ours = dict(entry.split("=") for entry in child_environment()["GLIBC_TUNABLES"].split(":"))
    assert ours["glibc.malloc.hugetlb"] == "1"
    assert "glibc.malloc.mmap_threshold" in ours
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1:glibc.malloc.hugetlb=0")
    both = dict(entry.split("=") for entry in child_environment()["GLIBC_TUNABLES"].split(":"))
    assert both == {**ours, "glibc.malloc.check": "1", "glibc.malloc.hugetlb": "0"}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc ignores the variable")
def test_a_child_with_these_settings_allocates_and_says_nothing():
    program = "import numpy; print(sum(float(numpy.ones(1 << 22).sum()) for _ in range(3)))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=child_environment(), capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (f"{3.0 * 2**22}\n", "")
