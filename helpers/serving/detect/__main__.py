"""`python -m helpers.serving.detect`: see `cli`."""

from helpers.serving.detect.cli import main

if __name__ == "__main__":
    main()
