"""Measurements, run by `make bench`; no part of the test suite."""
