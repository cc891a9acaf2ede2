"""`python -m rayotel` is the `rayotel` command."""

from rayotel.cli.main import main

main()
