"""A table of users: what is read of it, and what is said of one that cannot be."""

import pytest

from mcphub.cli.people_file import rows
from mcphub.errors import InvalidInput
from mcphub.identity.model import Person
from mcphub.policy.model import Role


def test_columns_come_in_any_order_and_groups_in_any_form() -> None:
    text = 'Role,Name,Groups\r\nadmin,"Cleo, ops", ops;data everyone ops\r\n\r\n,ben,\r\n'
    assert rows(text) == [
        Person("Cleo, ops", ("ops", "data"), Role.ADMIN),
        Person("ben", (), None),
    ]
    assert rows("name\nanna\n") == [Person("anna", (), None)]
    assert rows("name,groups\n") == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "heading"),
        ("anna\nben\n", "'anna'"),
        ("name;groups\nanna;data\n", "heading"),
        ("groups\ndata\n", "`name`"),
        ("name,name\na,b\n", "heading"),
        ("name,mail\nanna,x\n", "'mail'"),
        ("name,groups\nanna\n", "Line 2 "),
        ("name,groups\nanna,a,b\n", "Line 2 "),
        ("name\nanna\n\nanna\n", "Line 4 names 'anna' again"),
        ("name\nanna\n \n", "Line 3: "),
        ("name\nan\u202ena\n", "Line 2: "),
        ("name,groups\nanna,Data!\n", "Line 2: "),
        ("name,role\nanna,root\n", "Line 2: a role is user or admin"),
        ('name\n"anna\n', "no CSV"),
        ("name\nan\x00na\n", "Line 2"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        rows(text)
    assert told in str(caught.value)
