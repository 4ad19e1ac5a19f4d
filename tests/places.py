"""Where things lie for tests: the project's root, fixtures, real data.

Owns: ROOT, FIXTURES, SHARED. Does not own: what lies there.
"""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
FIXTURES = TESTS / "fixtures"
SHARED = Path(os.environ.get("RD_SHARED", ROOT.parent / "shared"))
