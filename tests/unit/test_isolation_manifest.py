"""Entries of a manifest whose command is a launcher."""

import pytest

from mcphub.isolation.manifest import Entry, requirement, setting


@pytest.mark.parametrize(
    ("install", "command", "args"),
    [
        ("npm i some-server@1.0.0", "npx", ("-y", "some-server@1.0.0")),
        ("uv pip install some-server==1.0.0", "uvx", ("some-server==1.0.0", "--x")),
    ],
)
def test_a_launcher_names_its_package_itself(install, command, args):
    entry = Entry("x", install, command, args)
    assert requirement(entry) == (None, ())
    assert setting(entry) == {"command": command, "args": list(args), "env": {}}
