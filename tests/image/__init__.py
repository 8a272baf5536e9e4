"""The serving image, run as containers; only `make test-image` collects this (see conftest.py)."""
