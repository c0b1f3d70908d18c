"""`python -m aions` is the command `aions`."""

from aions._cli.main import main

if __name__ == "__main__":
    main()
