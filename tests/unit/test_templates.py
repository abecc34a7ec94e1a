"""Templates: what is put in when, and that no value is ever read as a template."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcphub.catalog.spec import FactName
from mcphub.catalog.templates import TemplateError, escaped, expand, prepare
from mcphub.errors import MissingCredential
from mcphub.secret import Secret

TEXTS = st.text(alphabet="ab${}_:-USER", max_size=20)


def test_slots_and_facts_are_found_and_stay_for_the_second_pass() -> None:
    prepared = prepare("${USER_A} ${USER_ID} ${USER_A}-${USER_B2} ${X}", {"X": "op"})
    assert prepared.text == "${USER_A} ${USER_ID} ${USER_A}-${USER_B2} op"
    assert prepared.slots == ("A", "B2")
    assert prepared.facts == {FactName.USER_ID}


def test_the_operators_environment_has_three_forms() -> None:
    env = {"X": "1", "USER_X": "2", "EMPTY": ""}
    text = "${X} ${env:X} ${env:USER_X} ${Y:-a b} ${EMPTY:-c}"
    assert prepare(text, env).text == "1 1 2 a b "


def test_a_secret_makes_the_whole_text_secret_and_a_fact_does_not() -> None:
    values: dict[str, str | Secret] = {"USER_T": Secret("s3cret"), "USER_ID": "u_1"}
    made = expand("Bearer ${USER_T} $$5 ${USER_ID}", values)
    assert isinstance(made, Secret)
    assert made.reveal() == "Bearer s3cret $5 u_1"
    assert expand("id=${USER_ID}", values) == "id=u_1"


def test_each_user_gets_the_own_value() -> None:
    made = [expand("${USER_T}", {"USER_T": Secret(value)}) for value in ("of-a", "of-b")]
    assert [m.reveal() for m in made if isinstance(m, Secret)] == ["of-a", "of-b"]


def test_a_missing_value_is_an_error_never_an_empty_text() -> None:
    with pytest.raises(MissingCredential, match="TOKEN"):
        expand("${USER_TOKEN}", {"USER_OTHER": Secret("x")})


def test_an_error_names_the_variable_and_the_way_out() -> None:
    with pytest.raises(TemplateError) as caught:
        prepare("${GITHUB_TOKEN}", {})
    assert "GITHUB_TOKEN" in caught.value.message
    assert "${USER_GITHUB_TOKEN}" in caught.value.hint


@given(TEXTS, TEXTS)
def test_values_come_out_as_they_went_in(operator: str, user: str) -> None:
    prepared = prepare("<${OP}|${USER_T}>", {"OP": operator})
    made = expand(prepared.text, {"USER_T": Secret(user)})
    assert isinstance(made, Secret)
    assert made.reveal() == f"<{operator}|{user}>"


@given(TEXTS)
def test_an_escaped_text_stands_for_itself(text: str) -> None:
    prepared = prepare(escaped(text), {})
    assert prepared.is_plain
    assert expand(prepared.text, {}) == text


@given(TEXTS)
def test_any_text_is_prepared_or_refused_with_a_template_error(text: str) -> None:
    try:
        prepared = prepare(text, {"a": "x"})
    except TemplateError:
        return
    values = dict.fromkeys([*(f"USER_{slot}" for slot in prepared.slots), *prepared.facts], "v")
    assert isinstance(expand(prepared.text, values), str)
