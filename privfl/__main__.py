"""`python -m privfl` is `privfl`."""

from privfl.cli import main

if __name__ == "__main__":
    main()
