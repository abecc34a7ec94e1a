"""Tables of the command line: aligned, folded where they do not fit, quick with many rows."""

from mcphub.cli.tables import table


def test_columns_are_aligned_and_no_line_ends_in_spaces() -> None:
    assert list(table(("NAME", "ID"), [("a", "1"), ("long name", "22")], 80)) == [
        "NAME       ID",
        "a          1",
        "long name  22",
    ]


def test_a_wide_column_is_folded_at_spaces_and_narrow_ones_stay_whole() -> None:
    found = list(table(("KEY", "MEANING"), [("port", "the port to listen on")], 20))
    assert found == ["KEY   MEANING", "port  the port to", "      listen on"]


def test_a_word_that_does_not_fit_is_broken_and_nothing_is_lost() -> None:
    found = list(table(("A", "B"), [("x" * 50, "y" * 50)], 30))
    assert max(map(len, found)) <= 30
    assert "".join(found).count("x") == "".join(found).count("y") == 50


def test_lines_of_a_cell_stay_lines_and_wide_characters_count_twice() -> None:
    assert list(table(("A", "B"), [("猫", "one\ntwo")], 80)) == [
        "A   B",
        "猫  one",
        "    two",
    ]


def test_what_follows_a_character_of_several_code_points_stands_in_its_column() -> None:
    thumb = "\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}"
    assert list(table(("A", "B"), [(thumb, "x"), ("e\N{COMBINING ACUTE ACCENT}", "y")], 80)) == [
        "A   B",
        f"{thumb}  x",
        "e\N{COMBINING ACUTE ACCENT}   y",
    ]


def test_a_tab_in_a_cell_moves_no_column() -> None:
    assert list(table(("A", "B"), [("a\tb", "x"), ("c", "y")], 80)) == [
        "A          B",
        "a       b  x",
        "c          y",
    ]


def test_ids_and_addresses_are_not_broken_at_their_hyphens() -> None:
    found = list(table(("A", "B"), [("at a-long-name", "b" * 10)], 23))
    assert found == ["A            B", "at           " + "b" * 10, "a-long-name"]


def test_a_room_of_nothing_still_gives_every_character() -> None:
    found = "".join(table(("A", "B"), [("猫" * 20, "b" * 20)], 1))
    assert found.count("猫") == found.count("b") == 20


def test_only_the_headings_are_bold() -> None:
    first, second = table(("A",), [("x",)], 80, bold=True)
    assert (first, second) == ("\x1b[1mA\x1b[0m", "x")
