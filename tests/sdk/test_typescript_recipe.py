"""The check of "make a TypeScript server user-aware" accepts and refuses what the vectors say."""

import json
import os
import re
import subprocess
from pathlib import Path

from mcphub.catalog.settings_file import parse_settings
from mcphub.catalog.toolchain import find_toolchain
from tests.sdk.vectors import FILE

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "user-aware-typescript.md").read_text()
VECTORS = json.loads(FILE.read_text("utf-8"))
EXTENSION = "dev.mcphub/user-context"


def files():
    blocks = re.findall(r"```js\n(.*?)```", PAGE, re.S)
    return {block.partition("\n")[0].removeprefix("// "): block for block in blocks}


def node():
    found = find_toolchain(os.environ["PATH"]).node
    assert found is not None
    return str(found)


def request(token, **more):
    return {"params": VECTORS["params"] | {"_meta": {EXTENSION: {"assertion": token}}}, **more}


def asked(place, requests):
    (place / "user-context.mjs").write_text(files()["user-context.mjs"])
    done = subprocess.run(
        [node(), Path(__file__).with_name("recipe.mjs"), place / "user-context.mjs", FILE],
        input="".join(json.dumps(one) + "\n" for one in requests),
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_holds_is_accepted_once_and_everything_else_is_refused(tmp_path):
    token, claims = VECTORS["holds"]["assertion"], VECTORS["holds"]["claims"]
    refused = list(VECTORS["refused"].values())
    stolen = request(token)
    stolen["params"] = stolen["params"] | {"name": "another"}
    bare = {"params": VECTORS["params"]}
    first, again, *others = asked(
        tmp_path,
        [
            request(token, header=token),
            request(token),
            *map(request, refused),
            stolen,
            bare,
            request(token, header="another"),
        ],
    )
    assert first["id"] == f"{claims['iss']} {claims['sub']}"
    assert first["permissions"] == claims["permissions"]
    assert "replayed" in again
    assert len(others) == len(refused) + 3
    assert [answer for answer in others if isinstance(answer, dict)] == []


def test_the_server_of_the_page_is_a_program_and_its_settings_are_valid(tmp_path):
    (tmp_path / "server.mjs").write_text(files()["server.mjs"])
    subprocess.run([node(), "--check", tmp_path / "server.mjs"], check=True)
    [block] = re.findall(r"```json\n(.*?)```", PAGE, re.S)
    spec = parse_settings(block, {}).specs["notes"]
    assert spec.user_context is not None
    assert f'"audience": "{spec.user_context.audience}"' in PAGE
