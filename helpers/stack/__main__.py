"""`python -m helpers.stack up | apply | wait | status | logs | delete | down`."""

from helpers.stack.cli import main

if __name__ == "__main__":
    main()
