"""`python -m hdbench` is the command `hdbench`."""

from hdbench.cli import main

main()
