"""`python -m adaptery.cli`."""

from adaptery.cli import main

main()
