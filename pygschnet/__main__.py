"""`python -m pygschnet`."""

from pygschnet.cli import main

if __name__ == "__main__":
    main()
