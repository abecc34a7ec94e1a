"""The page on clients shows the matrix that the tests run."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "clients.md"


def test_the_page_on_clients_shows_the_matrix_that_is_tested() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.e2e.client_matrix import table

    found = re.search(r"^\| client \|.*?(?=\n\n)", PAGE.read_text(), re.M | re.S)
    assert found is not None
    assert found.group(0) == table()
