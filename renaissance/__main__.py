"""`python -m renaissance`, which is what `torchrun -m renaissance` runs."""

from renaissance.cli import main

if __name__ == "__main__":
    main()
