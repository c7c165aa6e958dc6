"""`python -m normscope.judge.claims > docs/claims.md` makes the page anew."""

from __future__ import annotations

import sys

from normscope.judge.claims import claims
from normscope.judge.claims_page import catalogue

sys.stdout.write(catalogue(claims()))
