"""The manifest of requirements and the tests say the same of each other."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.requirements import REQUIREMENTS, Requirement

TESTS = Path(__file__).parents[1]
REQUIRED = {
    *map(str, range(1, 26)),
    "10a",
    "31",
    "32",
    "33",
    "34",
    "40",
    "41",
    "42",
    "R2",
    "R3",
    "R9",
    "R19",
}


@cache
def claims_by_test() -> dict[str, frozenset[str]]:
    """Every test as `file::name` -> the requirements that its marker names."""
    return {
        f"{file.relative_to(TESTS)}::{found.name}": frozenset(claims(found))
        for file in TESTS.rglob("test_*.py")
        for found in ast.walk(ast.parse(file.read_text()))
        if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
        and found.name.startswith("test_")
    }


def claims(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Ids in `@pytest.mark.requirement(…)`."""
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.requirement":
            yield from (str(ast.literal_eval(given)) for given in mark.args)


def test_the_manifest_has_every_requirement_once() -> None:
    ids = [requirement.id for requirement in REQUIREMENTS]
    assert set(ids) == REQUIRED and len(ids) == len(set(ids))


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda one: one.id)
def test_every_requirement_has_tests_that_exist(requirement: Requirement) -> None:
    assert requirement.text and requirement.source and requirement.tests
    assert set(requirement.tests) - set(claims_by_test()) == set()
    assert len(requirement.tests) == len(set(requirement.tests))


def test_every_test_that_claims_a_requirement_is_listed_with_it() -> None:
    listed = {(test, one.id) for one in REQUIREMENTS for test in one.tests}
    claimed = {(test, id_) for test, ids in claims_by_test().items() for id_ in ids}
    assert claimed
    assert claimed - listed == set()
