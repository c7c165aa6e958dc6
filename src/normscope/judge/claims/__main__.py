"""`python -m normscope.judge.claims > docs/claims.md` makes the page anew."""

from __future__ import annotations

import sys

from normscope.judge.catalogues import catalogue
from normscope.judge.claims import claims

if __name__ == "__main__":  # this file is imported with the claims
    sys.stdout.write(catalogue(claims()))
