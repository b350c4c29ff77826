"""Reports with empty figures: drawing takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Every figure is an empty SVG."""
    from lovasz_repro.report import drawing, surrogates  # slow to import

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_svg", lambda draw: b"<svg/>")
        yield
    # It is kept for the process: later tests would get it undrawn.
    surrogates.section.cache_clear()
