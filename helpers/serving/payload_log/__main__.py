"""`python -m helpers.serving.payload_log`."""

from helpers.serving.payload_log.cli import main

if __name__ == "__main__":
    main()
