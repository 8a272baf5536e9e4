"""How fast, how small and how soon ready everything here is, measured against what it could be.

`make bench` runs all parts, `make bench ONLY=model` one of them; see README.md for what each measures.
"""
