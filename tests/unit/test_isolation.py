"""Parts of the isolation check that need no server: canaries, arguments, disguise, oracle, stand-ins."""

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import sqlite3
import ssl
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

from mcphub.isolation import credentials, dialects, identity, lab, samples, shapes
from mcphub.isolation.backends import detect
from mcphub.isolation.canaries import Canaries, mint
from mcphub.isolation.channel import StdioChannel, parsed
from mcphub.isolation.handles import Handles
from mcphub.isolation.kinds import Kind, kind_of
from mcphub.isolation.model import Call, Observation
from mcphub.isolation.oracle import READ_ONLY, missing, normal, refused_endpoints, same, worked
from mcphub.isolation.recipe import (
    Recipe,
    explained,
    optional_parameters,
    recipes,
    tongue,
    typed,
)
from mcphub.isolation.surface import Rank, Tool, looks_destructive
from mcphub.isolation.synthesis import Planted, Words, Writer
from mcphub.isolation.territory import Territory
from mcphub.isolation.witness.replies import Request, Shape, reply
from mcphub.isolation.witness.server import Witness

SOURCE = Path(__file__).parents[2] / "src" / "mcphub" / "isolation"


@pytest.mark.parametrize(
    "shape",
    [
        str,
        str.upper,
        lambda word: f"/home/u/{word.title()}-x",
        lambda word: base64.b64encode(f"ab {word} cd".encode()).decode(),
        lambda word: base64.b64encode(f"a {word}".encode()).decode(),
        lambda word: word.encode().hex(),
        lambda word: json.dumps({"a": [word]}),
    ],
)
def test_a_canary_is_found_in_every_form(shape):
    canaries: Canaries[str] = Canaries()
    word = canaries.plant("here")
    (found,) = canaries.seen(f"some text {shape(word)} and more")
    assert (found.canary, found.about) == (word, "here")


def test_what_the_caller_said_itself_is_no_sighting():
    canaries: Canaries[str] = Canaries()
    word = canaries.plant("here")
    assert canaries.seen(f"no such thing: {word}", but=[word]) == []


@pytest.mark.parametrize(
    ("name", "tool", "about", "kind"),
    [
        ("sql", "query", "", Kind.SQL),
        ("query", "read_query", "Execute a SELECT query on the database", Kind.SQL),
        ("query", "search_nodes", "Search for nodes", Kind.QUERY),
        ("code", "run", "Run Python code", Kind.CODE),
        ("path", "write_file", "", Kind.FILE),
        ("path", "list_directory", "", Kind.DIRECTORY),
        ("repo_path", "log", "", Kind.DIRECTORY),
        ("fileName", "bank_write", "", Kind.FILE_NAME),
        ("content", "write_file", "", Kind.CONTENT),
        ("requestId", "next", "", Kind.IDENTIFIER),
        ("timezone", "now", "", Kind.TIMEZONE),
        ("expression", "calculate", "", Kind.EXPRESSION),
        ("url", "fetch", "", Kind.URL),
        ("projectName", "bank_write", "", Kind.NAME),
        ("fileKey", "get_file", "The key of the file", Kind.IDENTIFIER),
        ("title_or_url", "page", "Reads a page", Kind.NAME),
        ("solarDatetime", "calendar", "A day", Kind.WHEN),
    ],
)
def test_a_parameter_is_read_by_its_name_and_description(name, tool, about, kind):
    assert kind_of(name, {"type": "string"}, tool, about) is kind


def writer(user: str) -> tuple[Writer, Canaries[Planted]]:
    canaries: Canaries[Planted] = Canaries()
    territory = Territory.plan(["/home/u/data"], repository=False)
    return Writer(user, Words.new(), territory, canaries, Handles()), canaries


ENTITY = Tool(
    "create_entities",
    "",
    {
        "type": "object",
        "$defs": {"Kind": {"type": "string", "enum": ["delete", "person"]}},
        "properties": {
            "entities": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "kind": {"$ref": "#/$defs/Kind"},
                        "observations": {"type": "array", "items": {"type": "string"}},
                        "weight": {"anyOf": [{"type": "null"}, {"type": "integer", "maximum": 3}]},
                    },
                    "required": ["name", "kind", "observations", "weight"],
                },
            }
        },
        "required": ["entities"],
    },
)


def test_arguments_follow_references_alternatives_limits_and_harmless_enums():
    a, canaries = writer("A")
    (entity,) = a.compose(ENTITY, recipes(ENTITY, "A")[0])["entities"]
    assert entity["kind"] == "person" and entity["weight"] == 3
    name, (observation,) = entity["name"], entity["observations"]
    assert canaries.about(name).handle
    (sighting,) = canaries.seen(observation)
    assert not sighting.about.handle and sighting.about.parameter == "observations"


def test_each_call_of_a_has_its_own_canaries_and_b_always_says_the_same():
    a, _ = writer("A")
    recipe = recipes(ENTITY, "A")[0]
    assert a.compose(ENTITY, recipe) != a.compose(ENTITY, recipe)
    b, canaries = writer("B")
    assert b.compose(ENTITY, recipe) == b.compose(ENTITY, recipe)
    assert canaries.seen(json.dumps(b.compose(ENTITY, recipe))) == []


UUID4 = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"


def test_what_is_given_takes_the_place_where_the_schema_has_it():
    """Also in an object of a list that needs not be given."""
    file = {"type": "object", "properties": {"file_path": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "files": {"type": "array", "items": file}},
        "required": ["name"],
    }
    who, _ = writer("B")
    given = who.compose(Tool("read", "", schema), Recipe("read", fixed={"file_path": "/a/b"}))
    assert given["files"] == [{"file_path": "/a/b"}] and "file_path" not in given
    elsewhere = who.compose(Tool("read", "", schema), Recipe("read", fixed={"other": "x"}))
    assert elsewhere["other"] == "x" and "files" not in elsewhere


@pytest.mark.timeout(10)
def test_a_schema_that_contains_itself_in_many_places_is_composed_at_once():
    branch = {"type": "array", "items": {"$ref": "#/$defs/Node"}}
    node = {
        "type": "object",
        "properties": {
            **{f"p{number}": dict(branch) for number in range(20)},
            "leaf": {"type": "object", "properties": {"file_path": {"type": "string"}}},
        },
    }
    schema = {
        "type": "object",
        "$defs": {"Node": node},
        "properties": {"tree": {"$ref": "#/$defs/Node"}},
    }
    who, _ = writer("B")
    for name in ("file_path", "elsewhere"):
        given = who.compose(Tool("read", "", schema), Recipe("read", fixed={name: "/a/b"}))
        assert given == (
            {"tree": {"leaf": {"file_path": "/a/b"}}} if name == "file_path" else {name: "/a/b"}
        )


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"minLength": 100, "maxLength": 120}, lambda text: 100 <= len(text) <= 120),
        ({"maxLength": 6}, lambda text: len(text) <= 6),
        ({"pattern": UUID4}, lambda text: re.match(UUID4, text)),
        ({"format": "uuid"}, lambda text: len(text) == 36),
        ({"pattern": "^[A-Z]+-[0-9]+$"}, lambda text: text == "ABC-123"),
    ],
    ids=["between", "short", "uuid pattern", "uuid", "pattern"],
)
@pytest.mark.parametrize("user", ["A", "B"])
def test_a_text_keeps_to_the_bounds_of_its_schema(schema, fits, user):
    tool = Tool(
        "note", "", {"properties": {"it": {"type": "string", **schema}}, "required": ["it"]}
    )
    who, canaries = writer(user)
    text = who.compose(tool, Recipe("note"))["it"]
    assert fits(text)
    if user == "A" and len(text) > 30:
        assert canaries.seen(text), "it can be recognised"


def test_a_pattern_that_would_take_for_ever_is_not_tried():
    schema = {"type": "string", "pattern": "^(([a-z0-9])+.)+[A-Z]([a-z])+$"}
    tool = Tool("note", "", {"properties": {"it": schema}, "required": ["it"]})
    started = time.monotonic()
    writer("A")[0].compose(tool, Recipe("note"))
    assert time.monotonic() - started < 1


def test_json_in_a_text_has_the_shape_that_the_description_shows():
    about = (
        "All steps, e.g. [{name: 'short', detail: 'long text', rank: 1, after: ['x']}, {name: 'y'}]"
    )
    schema = {"type": "string", "description": about}
    tool = Tool("plan", "", {"properties": {"steps_raw": schema}, "required": ["steps_raw"]})
    a, canaries = writer("A")
    (step,) = json.loads(a.compose(tool, Recipe("plan", as_json=True))["steps_raw"])
    assert set(step) == {"name", "detail", "rank", "after"}
    assert (step["rank"], step["after"]) == (1, [])
    assert len(step["name"]) < 40 < len(step["detail"])
    assert {seen.canary for seen in canaries.seen(json.dumps(step))} == set(a.planted)


@pytest.mark.parametrize(
    ("about", "extension"),
    [
        ("Read values from Excel sheet", ".xlsx"),
        ("Absolute path of the workbook", ".xlsx"),
        ("Reads a .csv file", ".csv"),
        ("Extract text from a PDF", ".pdf"),
        ("Read a file", ".txt"),
    ],
)
def test_a_tool_gets_a_file_of_the_format_that_it_speaks_of(about, extension):
    schema = {"type": "string", "description": "the file"}
    tool = Tool(
        "read_file", about, {"properties": {"file_path": schema}, "required": ["file_path"]}
    )
    who, _ = writer("B")
    given = who.compose(tool, Recipe("read_file"))["file_path"]
    assert given == str(who.territory.b.file(extension))


@pytest.mark.parametrize(
    "text",
    [
        "HTTPSConnectionPool(host='127.0.0.1', port=27124): Max retries exceeded: Connection refused",
        "connect ECONNREFUSED 127.0.0.1:27124",
        "Cannot connect to host 127.0.0.1:27124 ssl:default",
        "[Connect call failed ('127.0.0.1', 27124)]",
    ],
)
def test_a_local_service_that_nobody_named_is_learned_from_the_refusal(text):
    assert refused_endpoints([text, "fine: 127.0.0.1:80"]) == [("127.0.0.1", 27124)]


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("Database error: no such table", False),
        ("An error occurred while reading", False),
        ("Error executing tool x: y", False),
        ("❌ Failed to save", False),
        ("错误: 没有这个项目", False),
        ('{"success": true, "exec_result": {"error": "会话 q1 不存在"}}', False),
        ("Erro ao criar: não encontrado", False),
        ("Файл не найден", False),
        ("Template inconnu: 'x1'", False),
        ("Unknown action: x1. Valid actions: a, b", False),
        ("Unbekannte Vorlage 'x1'", False),
        ("未知的操作: x1", False),
        ("Unknown authors are listed below", True),
        ("Author: unknown: 3 books", True),
        ("保存しました", True),
        ('{"status": "error", "message": "no project is active"}', False),
        ('{"ok": false, "reason": "x"}', False),
        ('{"results":[{"error":"Missing due_at timestamp","reminder":{}}]}', False),
        ('{"tasks":[],"count":0,"error":"No valid task IDs provided"}', False),
        ('{"tasks":[{"id":1}],"error":"one of two was skipped"}', True),
        ('{"tasks":[],"error":null}', True),
        ("3 notes saved, no errors", True),
        ('{"status": "ok", "errors": []}', True),
        ("Result: 0 error lines found", True),
    ],
)
def test_a_failure_that_is_told_as_a_success_is_known(text, done):
    call = Call("tools/call", "x", {})
    assert worked(Observation("A", call, True, text)) is done


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1 validation error for Task\ntasks.0.title\n  Field required [type=missing]", ("title",)),
        ("'title' is a required property\n\nOn instance[0]: {}", ("title",)),
        (
            '[{"code": "invalid_type", "path": ["tasks", 0, "title"], "message": "Required"}]',
            ("title",),
        ),
        ("KeyError: 'title'", ("title",)),
        ("Missing due_at timestamp", ("due_at",)),
        ("Either epic_id or epic_name must be provided to identify the epic", ("epic_name",)),
        ("at least one of `text`, or `audio` is needed", ("text",)),
        ("IntegrityError: NOT NULL constraint failed: items.project_id", ("project_id",)),
        ('null value in column "owner" of relation "x" violates', ("owner",)),
        ("either way or another is fine", ()),
        ("Missing required field: title", ("title",)),
        ("Missing required parameters `title` and others", ("title",)),
        ("The name is required. The title is required", ("name", "title")),
        ("This field is required", ()),
        ("the note is too short", ()),
    ],
)
def test_what_a_refusal_says_is_missing_is_known_by_name(text, names):
    assert missing([text, text]) == names


def test_objects_of_which_a_schema_says_nothing_have_what_was_missing():
    anything = {"type": "object", "additionalProperties": True}
    tool = Tool(
        "create_tasks",
        schema={
            "type": "object",
            "properties": {
                "tasks": {"type": "array", "items": anything},
                "title": {"type": "string"},
                "closed": {"type": "object", "additionalProperties": False},
            },
            "required": ["tasks", "closed"],
        },
    )
    author, canaries = writer("A")
    given = author.compose(tool, Recipe("create_tasks", members=("title", "due_at")))
    assert given["closed"] == {}
    assert given["tasks"][0]["due_at"] == "2026-02-03T10:30:00Z"
    for text in (given["title"], given["tasks"][0]["title"]):
        assert canaries.seen(text)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "7"),
        ({"type": ["null", "integer"]}, 7),
        ({"anyOf": [{"type": "array", "items": {}}, {"type": "null"}]}, ["7"]),
        ({"oneOf": [{"type": "null"}, {"type": "number"}]}, 7),
        ({"anyOf": "x"}, "7"),
    ],
)
def test_a_handle_is_given_in_the_type_of_its_parameter(schema, value):
    assert typed(Tool("x", schema={"properties": {"it": schema}}), "it", "7") == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ENOENT: no such file or directory, mkdir '/srv/pkg/node_modules/notes/data'", True),
        ("ENOENT: no such file or directory, mkdir '/home/u/work/x'", False),
        ("ENOENT: no such file or directory, open '/srv/pkg/x'", False),
        ("EROFS: read-only file system, open '/srv/pkg/x'", True),
    ],
)
def test_a_read_only_place_is_known_from_what_node_says_of_it(text, told):
    assert bool(READ_ONLY.search(text)) is told


@pytest.mark.parametrize(
    ("name", "makes", "nouns"),
    [
        ("create_tasks", True, {"task"}),
        ("listTasks", False, {"task"}),
        ("trello_add_card", True, {"card"}),
        ("task_create", True, {"task"}),
        ("add_feed_tool", True, {"feed"}),
        ("list_new_items", False, {"item"}),
        ("render_page", False, {"render", "page"}),
    ],
)
def test_a_name_says_what_is_made_and_what_is_shown(name, makes, nouns):
    assert (Tool(name).makes, Tool(name).nouns) == (makes, nouns)


def test_a_tool_that_connects_is_told_how_the_database_of_the_launch_line_is_reached():
    line = {"MYSQL_HOST": "127.0.0.1", "MYSQL_USER": "app", "MYSQL_PASSWORD": "p/w"}
    (need,) = detect.databases([], line)
    handles = Handles()
    handles.know(detect.access(need))
    assert handles.fitting("user", "connect_db") == ["app"]
    assert handles.fitting("port", "connect_db") == ["3306"]
    assert handles.fitting("connectionString", "connect") == ["mysql://app:p%2Fw@127.0.0.1:3306/"]


@pytest.mark.parametrize(
    "answer",
    ['{"result": ["north", "south"]}', '["north", "south"]', "Found 2:\n- north\n- `south`\n"],
)
def test_entries_without_names_are_what_the_tool_lists(answer):
    handles = Handles()
    handles.learn(answer, "projects")
    assert handles.fitting("project", "open_project") == ["south", "north"]


@pytest.mark.parametrize(
    ("structured", "texts", "told"),
    [
        ({"result": "Done."}, ["Done."], "Done."),
        ({"result": ["a", "b"]}, ["a", "b"], "a\nb"),
        ({"id": 7}, ["Made."], 'Made.\n{"id": 7}'),
    ],
)
def test_what_structured_content_adds_to_the_text_is_told_once(structured, texts, told):
    content = [{"type": "text", "text": text} for text in texts]
    result = {"content": content, "structuredContent": structured}
    assert lab.told({"result": result}) == (True, told)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("A day, e.g. 2026-02-03.", "2026-02-03"),
        ("Cell range, such as 'A1 B2'.", "A1 B2"),
        ("例如\uff1a戊寅 己未", "戊寅"),
        ("A name.", ""),
    ],
)
def test_a_description_shows_an_example(told, shown):
    assert shapes.example_of(told) == shown


def test_of_words_that_a_description_lists_the_first_is_taken():
    listed = (
        "\nAvailable formats:\n- date: 2024-12-10\n- date_slash: 2024/12/10\n- iso: 2024-12-10T00"
    )
    assert shapes.example_of(listed) == "date"
    assert shapes.example_of("* `asc` — upwards\n* `desc` — downwards") == "asc"
    assert shapes.example_of("Available formats") == ""
    assert shapes.example_of("Notes:\n- one: only this") == ""


@pytest.mark.parametrize(
    ("languages", "default", "said", "read"),
    [
        (["javascript", "python"], None, "console.log", "readFileSync"),
        (["javascript", "python"], "python", "print(", "open("),
        (["bash", "python"], None, "echo", "cat "),
    ],
)
def test_code_is_written_in_the_language_that_is_chosen_beside_it(languages, default, said, read):
    choice = {"type": "string", "enum": languages} | ({"default": default} if default else {})
    schema = {
        "properties": {"code": {"type": "string", "description": "Code"}, "languageId": choice},
        "required": ["code", "languageId"],
    }
    tool = Tool("run-code", "Runs code in javascript, python, bash.", schema)
    for user in ("A", "B"):
        given = writer(user)[0].compose(tool, recipes(tool, user)[0])
        assert given["languageId"] == (default or languages[0])
    assert any(said in text for text in dialects.statements(Kind.CODE, "A", explained(tool)))
    assert read in dialects.reading(Kind.CODE, tongue(tool), "/a/b")


@pytest.mark.parametrize(
    "pattern",
    [
        "[^~]*[^~]*[^~]*~$", "[^~]*?[^~]*?[^~]*?~", "[^~]{0,999}" * 4 + "~", "(a|aa)+$", ".?" * 60 + "~" * 20,
        "x?[^~]*x?[^~]*x?[^~]*~$", "(?:[^~]{0,99}|x){0,99}~",
    ],
)  # fmt: skip
@pytest.mark.parametrize("length", [64, 3000])
def test_a_pattern_of_a_schema_costs_no_more_than_a_moment(pattern, length):
    schema = {"type": "string", "pattern": pattern, "minLength": length}
    began = time.process_time()
    shapes.fitted("abc", schema, long=False)
    shapes.wants_uuid(schema, "x" * length)
    assert time.process_time() - began < 5


@pytest.mark.anyio
async def test_answers_to_nothing_and_halves_of_characters_hurt_no_check():
    from_server, theirs = os.pipe()
    theirs_too, to_server = os.pipe()
    for end in (from_server, to_server):
        os.set_blocking(end, False)
    channel = StdioChannel(from_server, to_server)
    lines = [
        '{"id":[],"result":{}}', '{"id":{"a":1},"result":1}', '{"id":null,"result":{}}', '{"id":1e400,"result":{}}', "null",
        r'{"id":1,"result":{"text":"half \ud83d"}}',
    ]  # fmt: skip
    asked = asyncio.ensure_future(channel.request("tools/list", {}, 10))
    await asyncio.sleep(0)
    os.write(theirs, "".join(f"{line}\n" for line in lines).encode())
    answer = await asked
    assert answer["result"]["text"] == "half \ufffd"
    json.dumps(parsed(b'{"a":"\xed\xa0\x80"}'), ensure_ascii=False).encode()
    channel.close()
    for end in (from_server, theirs, to_server, theirs_too):
        os.close(end)


def test_options_that_exclude_each_other_are_given_one_by_one():
    tool = Tool(
        "find", "", {"properties": {"solar": {"type": "string"}, "lunar": {"type": "string"}}}
    )
    given, _ = writer("A")
    assert optional_parameters(tool) == ["solar", "lunar"]
    assert list(given.compose(tool, Recipe("find", only="lunar"))) == ["lunar"]


def test_the_stand_in_answers_as_a_wiki_does_in_both_of_its_formats():
    def answered(target):
        asked = Request("GET", "wiki.example.com", target, (), b"")
        return json.loads(reply(asked, Shape.OBJECT, []).body)

    old = answered("/api.php?action=query&list=search")
    new = answered("/api.php?action=parse&formatversion=2")
    assert old["query"]["search"][0]["title"] == old["query"]["pages"]["1"]["title"]
    assert isinstance(new["parse"]["text"], str) and isinstance(new["query"]["pages"], list)


@pytest.mark.parametrize("user", ["A", "B"])
def test_an_expression_is_written_as_the_description_shows_it(user):
    told = "Evaluates 'x' in reverse Polish notation, e.g. '3 4 +'; see 'help'."
    spoken = dialects.statements(Kind.EXPRESSION, user, told)
    assert spoken[-1] == "3 4 +"
    assert "help" not in spoken


def test_every_format_holds_the_note(tmp_path):
    found = samples.samples("private note abc")
    (tmp_path / "x.db").write_bytes(found[".db"])
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as database:
        assert database.execute("SELECT note FROM notes").fetchall() == [("private note abc",)]
    for extension in (".xlsx", ".docx"):
        with zipfile.ZipFile(io.BytesIO(found[extension])) as archive:
            assert any(b"private note abc" in archive.read(name) for name in archive.namelist())
    for extension in (".txt", ".md", ".json", ".ipynb", ".csv", ".html", ".pdf"):
        assert b"private note abc" in found[extension]


def test_a_handle_of_an_earlier_answer_fits_the_parameter_that_wants_it():
    handles = Handles()
    handles.learn('Done.\n{"requestId": "req-7", "tasks": [{"id": "task-9", "title": "x"}]}')
    handles.learn("Process started with PID: 4711")
    assert handles.fitting("request_id", "get_next_task")[0] == "req-7"
    assert handles.fitting("taskId", "approve")[0] == "task-9"
    assert handles.fitting("pid", "read_output") == ["4711"]


@pytest.mark.parametrize("name", ["delete_file", "dropTable", "git-reset", "KillProcess", "remove"])
def test_a_destructive_name_is_known_in_every_case(name):
    assert looks_destructive(name)


def test_a_tool_that_hides_a_file_is_left_out_and_one_that_hides_a_text_is_not():
    def encrypt(parameter):
        return Tool("encrypt", "", {"properties": {parameter: {"type": "string"}}})

    assert encrypt("filePath").destructive and Tool("protect_document").destructive
    assert not encrypt("text").destructive


def test_what_a_tool_promises_by_its_name_orders_the_calls():
    names = ("read_graph", "create_entities", "sequentialthinking")
    ranks = [Tool(name).rank for name in names]
    assert ranks == [Rank.OBSERVE, Rank.CREATE, Rank.OTHER]


def test_credentials_are_replaced_in_their_form_and_nothing_else_is():
    made = credentials.disguise(
        ["--dsn", "mysql://lab:pw12345@127.0.0.1:3306/db", "--api-key", "abcdefgh", "--mode", "x"],
        {
            "NOTION_TOKEN": "ntn_abcdef",
            "MODE": "stdio",
            "SECRET_FILE": "/etc/x",
            "DB_PASSWORD": "pw12345",
        },
        canary="EXTRA_TOKEN",
    )
    assert made.env["MODE"] == "stdio" and made.env["SECRET_FILE"] == "/etc/x"
    assert made.env["NOTION_TOKEN"].startswith("ntn_") and "abcdef" not in made.env["NOTION_TOKEN"]
    assert made.args[1] == f"mysql://lab:{made.env['DB_PASSWORD']}@127.0.0.1:3306/db"
    assert made.args[3] != "abcdefgh" and made.args[4:] == ("--mode", "x")
    assert [c.label for c in made.credentials if not c.given] == ["env:EXTRA_TOKEN"]
    assert "pw12345" not in str(made)


@pytest.mark.parametrize(
    ("name", "value", "replaced"),
    [
        ("API_TOKEN", "x", True),
        ("API_KEY", "123456", True),
        ("MAX_TOKENS", "4096", False),
        ("TOKEN_TTL", "60", False),
        ("API_TOKEN", "", False),
        ("USE_TOKEN", "true", False),
        ("TOKEN_FILE", "/run/token", False),
        ("SLACK_BOT", "xoxb-12345678901-abcdefghijkl", True),
        ("WORKSPACE", "0f8fad5b-d9cb-469f-a165-70867728950e", False),
        ("BASE_HOST", "a1.some-long-name-of-a-host.example.com", False),
    ],
)
def test_what_stands_for_a_credential_is_one_and_a_number_of_tokens_is_not(name, value, replaced):
    flag = f"--{name.lower().replace('_', '-')}"
    made = credentials.disguise([flag, value], {name: value}, canary="EXTRA_TOKEN")
    assert (made.env[name] != value) is replaced
    assert (made.args[1] != value) is replaced


def test_a_slot_of_a_user_gets_a_sentinel_wherever_it_stands():
    made = credentials.disguise(["--who=${USER_ACCOUNT}"], {"X": "a ${USER_PIN} b"}, canary="Y")
    assert {c.label for c in made.given} == {"slot:ACCOUNT", "slot:PIN"}
    assert "${" not in str(made.args) + str(dict(made.env))


def test_signed_claims_ask_for_the_scopes_that_a_refusal_names():
    refused = "Error: Insufficient permissions. Missing required scopes: tool:notes:write"
    assert identity.scopes_in(refused) == ["tool:notes:write"]
    assert identity.scopes_in("at http://x.test:80 nothing was found") == []
    made = credentials.disguise([], {"AUTH_SECRET_KEY": "k" * 40}, canary="X")
    last = identity.attempts("A", "a", made.credentials, ["tool:notes:write"])[-2]
    assert last.way == "signed"
    claims = last.headers["Authorization"].split(".")[1]
    assert "tool:notes:write" in base64.urlsafe_b64decode(claims + "==").decode()


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("at 2026-11-22T10:00:01Z", "at 2026-11-23T11:02:03Z", True),
        ("took 2.22 ms", "took 17 ms", True),
        ("id 6f5568dcbff7810d", "id 99aa68dcbff7810e", True),
        ("pid: 9289", "pid: 17", True),
        ("no answer from 11.0.0.2", "no answer from 11.0.0.3", True),
        ("no answer from 12.0.0.2", "no answer from 12.0.0.3", False),
        (f"UEsDB{'BAo+/' * 20}E6g==", f"UEsDB{'BBo+/' * 20}GGg==", True),
        ("history length: 1", "history length: 2", False),
        ("branch main", "branch dev", False),
        ("left: 12.50 EUR", "left: 8.50 EUR", False),
        ("score 0.123", "score 0.125", True),
        ("due 2026-02-03", "due 2026-11-22", False),
        ("due Feb 3, 2026", "due Nov 22, 2026", False),
        ("due 2026-02-04", "due 2026-11-22", True),
    ],
)
def test_noise_is_left_out_and_counters_are_not(one, other, equal):
    call = Call("tools/call", "x")
    assert same(Observation("B", call, True, one), Observation("B", call, True, other)) is equal
    assert (normal(one) == normal(other)) is equal


def test_the_stand_in_answers_graphql_by_its_own_selection():
    query = "query Q($n: Int) { viewer { id name } issues(first: $n, filter: {a: 1}) { nodes { id labels { nodes { name } } } pageInfo { hasNextPage } } }"
    request = Request("POST", "api.test", "/graphql", (), json.dumps({"query": query}).encode())
    body = reply(request, Shape.OBJECT, ()).body
    data = json.loads(body)["data"]
    assert set(data["viewer"]) == {"id", "name"}
    assert data["issues"]["nodes"][0]["labels"]["nodes"][0].keys() == {"name"}
    assert data["issues"]["pageInfo"] == {"hasNextPage": False}


def test_the_witness_sees_credentials_over_tls_for_any_name_and_never_tells_them(tmp_path):
    known: Canaries[str] = Canaries()
    token = known.plant("env:TOKEN", mint())
    with Witness(tmp_path, known) as witness:
        context = ssl.create_default_context(cafile=str(witness.authority.ca_file))
        basic = base64.b64encode(f"user:{token}".encode()).decode()
        for scheme, headers in (
            ("https", {"Authorization": f"Bearer {token}", "Host": "api.one.test"}),
            ("http", {"Authorization": f"Basic {basic}", "Host": "api.two.test"}),
        ):
            mark = witness.mark()
            body = fetch(scheme, witness.port, headers, context)
            (arrival,) = witness.since(mark)
            assert arrival.credentials == {"env:TOKEN"}
            assert arrival.host == headers["Host"]
            assert token not in body and "caller-" in body


def fetch(scheme: str, port: int, headers: dict[str, str], context: ssl.SSLContext) -> str:
    context.check_hostname = False  # dialled by address here; the chain is still verified
    request = urllib.request.Request(f"{scheme}://127.0.0.1:{port}/v1/me?a=1", headers=headers)
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        return answer.read().decode()


def test_the_check_knows_no_particular_server():
    manifest = json.loads(
        (SOURCE.parents[2] / "docs/reference/reality-check.servers.json").read_text()
    )
    names: set[str] = set()
    for entry in manifest:
        package = entry["package"].rpartition("@")[0] or entry["package"].partition("==")[0]
        names |= {
            entry["id"],
            package,
            package.rpartition("/")[2],
            *entry["package"].split("==")[:1],
        }
        backend = re.findall(r"https?://[\w.]+", entry.get("backend_override") or "")
        names |= {host.partition("//")[2] for host in backend} - {"127.0.0.1"}
    words = {name.lower() for name in names if len(name) > 4}
    for file in SOURCE.rglob("*.py"):
        text = file.read_text().lower()
        known = [
            word for word in words if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)
        ]
        assert known == [], f"{file.name} names a server"
