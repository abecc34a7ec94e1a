"""Fixtures of the tests with published servers."""

from tests.packages_fixture import package_store

__all__ = ["package_store"]
