"""`python -m normscope.judge.claims > docs/claims.md` makes the page anew."""

from __future__ import annotations

import sys

from normscope.judge.claims import claims
from normscope.judge.claims_page import catalogue

if __name__ == "__main__":  # this file is imported with the claims
    sys.stdout.write(catalogue(claims()))
