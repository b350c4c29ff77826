"""The files of compiled loops, damaged, or on a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.faults.harness import Fault, fill, shows

LOOP = """
from lovasz_repro.losses.compiled import compiled

@compiled
def total(n):
    value = 0
    for i in range(n):
        value += i * i
    return value
"""
CALL = """
import importlib, loop
def hits():
    importlib.reload(loop)
    assert loop.total(10) == 285
    return sum(loop.total.stats.cache_hits.values())
"""
DAMAGE = """
import os, pathlib, random, sys
assert hits() == 0 and hits() == 1
chance = random.Random(0)
for suffix in (".nbi", ".nbc"):
    path, = pathlib.Path(sys.argv[1]).rglob("*" + suffix)
    whole = path.read_bytes()
    flips = [chance.randrange(8 * len(whole)) for _ in range(6)]
    for damage in [0, 1, len(whole) // 2, len(whole) - 1, *(-flip for flip in flips)]:
        content = bytearray(path.read_bytes())
        if damage < 0:
            content[-damage // 8] ^= 1 << -damage % 8
        path.write_bytes(content if damage < 0 else content[:damage])
        assert hits() == 0, (suffix, damage)
        assert hits() == 1, (suffix, damage)
    path.unlink()
    os.mkfifo(path)
    assert hits() == 0 and hits() == 1, suffix
"""


def run(code: str, folder: Path, cache: Path) -> None:
    """A process that keeps its compiled loops there, and says nothing."""
    (folder / "loop.py").write_text(LOOP)
    done = subprocess.run(
        [sys.executable, "-c", CALL + code, str(cache)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@shows(
    Fault("bits flipped in the kept machine code of the losses, its files cut, or a pipe in their "
          "place",
          "nothing: what is damaged is compiled again", "nothing", "nothing to do"),
)  # fmt: skip
def test_compiled_loops_damaged(tmp_path: Path) -> None:
    run(DAMAGE, tmp_path, tmp_path / "cache")


@shows(
    Fault("a full disk where the losses' machine code is kept",
          "nothing: each process compiles its own", "nothing", "nothing to do"),
)  # fmt: skip
def test_no_room_for_compiled_loops(disk: Path, tmp_path: Path) -> None:
    fill(disk)
    run("assert hits() == 0 and hits() == 0", tmp_path, disk)
    assert not list(disk.rglob("*.nb?"))
