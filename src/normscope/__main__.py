"""`python -m normscope`: the command line."""

from normscope.cli import main

if __name__ == "__main__":
    main()
