"""`python -m helpers.serving.broker`."""

from helpers.serving.broker.cli import main

if __name__ == "__main__":
    main()
