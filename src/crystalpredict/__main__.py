"""`python -m crystalpredict`."""

from crystalpredict.cli import main

if __name__ == "__main__":
    main()
