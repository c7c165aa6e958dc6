"""`python -m normscope.judge.rules` prints docs/checks.md, which a test compares with the rules."""

from normscope.judge.catalogues import to_markdown

if __name__ == "__main__":
    print(to_markdown(), end="")
