"""`python -m crystalpredict`."""

from crystalpredict.cli import program

if __name__ == "__main__":
    program()
