"""Where the project lies, and the sample of real data beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared"
