"""What a tool takes is read from what the server says of it, and what it does from a parameter that chooses."""

import pytest

from mcphub.isolation import templates
from mcphub.isolation.deeds import apart
from mcphub.isolation.handles import Handles
from mcphub.isolation.model import Call
from mcphub.isolation.offers import heeded, offered, shown
from mcphub.isolation.surface import Rank, Tool, tools_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Unknown action: None. Valid actions: kill-all, list", ("kill-all", "list")),
        ("Unknown unit: x. Supported units: m, km, cm", ("m", "km", "cm")),
        ("status must be one of 'open', 'on hold' or 'done'", ("open", "on hold", "done")),
        ("Input should be 'a', 'b' or 'c'", ("a", "b", "c")),
        ("unknown variant `x`, expected one of `draft`, `final` at line 1", ("draft", "final")),
        ("Options: fast | slow", ("fast", "slow")),
        ("the sort is either work or home", ("work", "home")),
        (
            "Template inconnu: 'x'\n\nTemplates disponibles:\n  download   -- files\n      fields: a, b\n  free       -- all\n",
            ("download", "free"),
        ),
        ("Available kinds:\n- memo: short\n- plan: long\n\nSee the manual", ("memo", "plan")),
        ("Available kinds:\nmemo\nplan\n", ("memo", "plan")),
        ("Verfügbare Vorlagen: frei, streng", ("frei", "streng")),
        ("不支持的格式。可用的格式\uff1amd, html", ("md", "html")),
        ("Notes are available:\nWe went to town that day.\nIt rained all day long.", ()),
        ("expected string, received number", ()),
        ("Expected ',' or '}' after a member", ()),
        ("must be a valid date, please", ()),
        ("Input must contain only digits", ()),
    ],
)
def test_values_that_a_text_offers_are_read_from_it(text, values):
    assert offered(text) == values


def _tool(name="keep", **properties):
    return Tool(name, "", {"type": "object", "properties": properties})


def test_a_refusal_is_heeded_where_its_parameter_is():
    text = {"type": "string"}
    tool = _tool(what={"type": "object"}, unit=text, title=text)
    told = heeded(
        tool,
        [
            ({"unit": "xyz"}, "bad unit xyz. Valid units: m, km"),
            ({"what": {"sort": "abc"}}, "unknown sort abc, expected one of `memo`, `plan`"),
            ({}, "title must be at least 10 characters"),
            ({"what": {"sort": "memo", "due": "abc"}}, "validation: due must be YYYY-MM-DD"),
        ],
    )
    assert told is not None
    own = told.schema["properties"]
    assert own["unit"]["enum"] == ["m", "km"]
    assert own["title"]["minLength"] == 10
    assert own["what"]["properties"]["sort"]["enum"] == ["memo", "plan"]
    assert own["what"]["properties"]["due"]["format"] == "date"
    assert set(told.schema["required"]) == {"unit", "what", "title"}


def test_a_refusal_that_offers_nothing_changes_nothing():
    tool = _tool(unit={"type": "string"})
    assert heeded(tool, [({"unit": "xyz"}, "no such unit xyz")]) is None


def test_examples_of_a_description_tell_what_an_open_object_holds():
    about = 'A: {"action": "say", "text": "x", "n": 3} B: {"action": "list"} not: {broken}'
    tool = shown(Tool("talk", about, _tool(args={"type": "object"}).schema))
    parts = apart([tool])
    assert parts.keys() == {"talk[say]", "talk[list]"}
    say = parts["talk[say]"].schema["properties"]["args"]
    assert say["required"] == ["text", "n", "action"]
    assert say["properties"]["n"] == {"type": "integer", "default": 3}
    assert parts["talk[list]"].schema["properties"]["args"]["properties"].keys() == {"action"}


def test_a_tool_of_many_deeds_is_taken_apart_by_what_each_promises():
    chosen = {"type": "string", "enum": ["add", "list", "delete", "weigh"], "default": "list"}
    (name,) = {tool.wire_name for tool in apart([_tool("notes", action=chosen)]).values()}
    assert name == "notes"
    add, shows, lost, other = apart([_tool("notes", action=chosen)]).values()
    assert [add.rank, shows.rank, other.rank] == [Rank.CREATE, Rank.OBSERVE, Rank.OTHER]
    assert [add.destructive, shows.destructive, lost.destructive] == [False, False, True]
    assert add.schema["properties"]["action"] == {"type": "string", "enum": ["add"]}
    assert add.schema["required"] == ["action"]
    assert add.makes
    assert "note" in add.nouns


def test_a_deed_may_be_chosen_inside_of_an_object_that_is_referred_to():
    schema = {
        "properties": {"request": {"$ref": "#/$defs/Request"}},
        "$defs": {
            "Request": {
                "properties": {"op": {"anyOf": [{"enum": ["put", "get"]}, {"type": "null"}]}}
            }
        },
    }
    parts = apart([Tool("store", "", schema)])
    assert parts.keys() == {"store[put]", "store[get]"}
    inner = parts["store[get]"].schema["properties"]["request"]
    assert inner["properties"]["op"]["enum"] == ["get"]


def test_what_an_object_chooses_that_may_be_left_out_is_no_deed_of_the_tool():
    setup = {"type": "object", "properties": {"action": {"enum": ["get", "set"]}}}
    code = {"type": "string"}
    tool = _tool("send", python=code, setup=setup)
    assert apart([tool]) == {"send": tool}
    needed = Tool("send", "", {**tool.schema, "required": ["setup"]})
    assert apart([needed]).keys() == {"send[get]", "send[set]"}


def test_an_enumeration_that_chooses_no_deed_is_left_whole():
    tool = _tool("paint", mode={"type": "string", "enum": ["plain", "loud"]})
    assert apart([tool]) == {"paint": tool}


def test_what_is_sent_is_the_name_that_the_server_knows():
    call = Call("tools/call", "notes[add]", {"action": "add"}, "notes")
    assert call.params() == {"name": "notes", "arguments": {"action": "add"}}


@pytest.mark.parametrize(
    ("answer", "ids"), [("proc-285f\n", ["proc-285f"]), ("done", []), ("3 notes were added", [])]
)
def test_an_answer_that_is_one_made_up_word_is_an_id(answer, ids):
    handles = Handles()
    handles.learn(answer)
    assert handles.fitting("id", "start") == ids


@pytest.mark.parametrize(
    ("template", "needed", "uri"),
    [
        ("notes://{id}/text", ["id"], "notes://a%2Fb/text"),
        ("file://{+path}", ["path"], "file:///x/y"),
        ("log://day{/year,id}{?limit}", ["year", "id"], "log://day/2026/a%2Fb"),
        ("plain://x", [], "plain://x"),
    ],
)
def test_an_address_is_made_from_a_template(template, needed, uri):
    values = {"id": "a/b", "path": "/x/y", "year": "2026"}
    assert templates.variables(template) == needed
    assert templates.filled(template, values) == uri


def test_an_optional_text_of_rust_is_a_text():
    listed = {"python": {"type": ["string", "null"]}, "n": {"type": ["integer", "string"]}}
    raw = {"name": "send", "inputSchema": {"type": "object", "properties": listed}}
    (tool,) = tools_of({"tools": [raw]})
    assert tool.schema["properties"] == {"python": {"type": "string"}, "n": listed["n"]}
