"""`python -m helpers.serving.explain`: see `cli`."""

from helpers.serving.explain.cli import main

if __name__ == "__main__":
    main()
