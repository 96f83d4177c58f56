"""`python -m vtbench`."""

from vtbench.cli import main

main()
