"""`python -m histotune`: the command line where no script of that name is on the path."""

from histotune.cli.app import main

main()
