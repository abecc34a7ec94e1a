"""A table of users: what is read of it, and what is said of one that cannot be."""

from pathlib import Path

import pytest

from mcphub.cli.people_file import rows, text_of
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
        ("name;mail\nanna;x\n", "It has 'mail'"),
        (
            "name;groups\nanna,data\n",
            "Line 2 has another number of cells than the heading: 1 and not 2",
        ),
        (
            "name,groups\nanna;data\n",
            "Line 2 has another number of cells than the heading: 1 and not 2",
        ),
        ("sep=;\nname;groups\nanna;data\nben\n", "Line 4 "),
        ('name;groups\n"anna";"data\nops"\nben\n', "Line 4 "),
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
        ('name\nben\n"anna\ncleo\n', "The row that begins in line 3 is no CSV"),
        ('name\n"anna" b\n', "The row that begins in line 2 is no CSV"),
        ("name\nan\x00na\n", "Line 2"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        rows(text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "name;groups;role\nÄnne;data ops;admin\nben;;\n",
        "name;groups;role\r\nÄnne;data,ops;admin\r\nben;;\r\n;;\r\n",
        'sep=;\r\n"name";"groups";"role"\r\n"Änne";"data;ops";"admin"\r\n"ben";"";""\r\n',
        "name\tgroups\trole\nÄnne\tdata, ops\tadmin\nben\t\t\n",
        'name,groups,role\rÄnne,"data,ops",admin\rben,,\r',
        "\nname;groups;role;;\nÄnne;data ops;admin;;\nben;;;;\n",
    ],
    ids=["semicolons", "crlf", "sep-line", "tabs", "cr", "emptied-columns"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_spreadsheet_may_separate_and_encode_as_it_is_used_to(
    text: str, encoding: str, tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_bytes(text.encode(encoding))
    assert rows(text_of(str(file))) == [
        Person("Änne", ("data", "ops"), Role.ADMIN),
        Person("ben", (), None),
    ]


def test_a_file_of_another_encoding_is_told_with_the_line_and_how_to_convert_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "people.csv"
    file.write_bytes("name\nben\nÄnne\n".encode("cp1252"))
    with pytest.raises(InvalidInput) as caught:
        text_of(str(file))
    assert "Line 3 " in caught.value.message
    assert "iconv" in caught.value.hint
