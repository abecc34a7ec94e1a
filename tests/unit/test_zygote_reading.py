"""What a zygote reads of modules that only its instances import: their code, which it does not run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mcphub

# Reads modules, lets something happen to the files, imports them and says what they are.
PROGRAM = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from mcphub.spawn.zygote.reading import Reader
reader = Reader()
for name in sys.argv[3].split(","):
    reader.read(name)
reader.install()
assert not {name.partition(".")[0] for name in sys.modules} & {"top", "alone"}
exec(sys.argv[4])
"""


@pytest.fixture
def read(tmp_path):
    """Read modules of a package, then run a program that may import them; returns its output."""
    (tmp_path / "top" / "deep").mkdir(parents=True)
    for name in ("top/__init__", "top/one", "top/deep/__init__", "top/deep/two", "alone"):
        said = f"said = {name!r}\nprint('ran', __name__)\n"
        (tmp_path / f"{name}.py").write_text(said)
    (tmp_path / "other").mkdir()

    def run(names: str, program: str) -> str:
        code = str(Path(mcphub.__file__).parents[1])
        argv = [sys.executable, "-B", "-c", PROGRAM, code, str(tmp_path), names, program]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=dict(os.environ), cwd=tmp_path
        )
        return done.stdout + done.stderr

    return run


ALL = "top,top.one,top.deep,top.deep.two,alone"


def test_code_that_was_read_runs_at_its_import_and_not_before(read):
    program = (
        "import pathlib, os; [os.truncate(p, 0) for p in pathlib.Path(sys.argv[2]).rglob('*.py')];"
        "import top.deep.two, top.one, alone;"
        "print(top.said, top.one.said, top.deep.two.said, alone.said, alone.__file__[-8:])"
    )
    assert read(ALL, program).splitlines() == [
        "ran top",
        "ran top.deep",
        "ran top.deep.two",
        "ran top.one",
        "ran alone",
        "top/__init__ top/one top/deep/two alone alone.py",
    ]


def test_another_file_that_is_found_first_is_what_is_imported(read):
    program = (
        "import pathlib; other = pathlib.Path(sys.argv[2], 'other');"
        "(other / 'alone.py').write_text('said = 1'); sys.path.insert(0, str(other));"
        "import alone; print(alone.said)"
    )
    assert read(ALL, program) == "1\n"


def test_a_module_that_cannot_be_read_fails_at_its_import_as_ever(read, tmp_path):
    (tmp_path / "alone.py").write_text("def (")
    assert "SyntaxError" in read(f"{ALL},nowhere,nowhere.deep", "import alone")
    assert "ModuleNotFoundError" in read("nowhere", "import nowhere")


def test_a_module_that_is_loaded_again_and_its_source_are_as_ever(read):
    program = (
        "import alone, importlib, inspect; importlib.reload(alone);"
        "print(inspect.getsource(alone).splitlines()[0], type(alone.__loader__).__name__)"
    )
    assert read(ALL, program) == "ran alone\nran alone\nsaid = 'alone' SourceFileLoader\n"
