"""`python -m rayotel` is the `rayotel` command."""

from rayotel.cli import main

main()
