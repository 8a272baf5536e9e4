"""The environment of the repository: finds a Python 3.12, installs the lock, says what differs.

`ensure.sh` is what the Makefile calls; it prints the Python of an environment that holds
`requirements.txt`, which it makes first where there is none.
"""
