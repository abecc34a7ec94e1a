"""What the hub's process may use of the machine."""

import json
import resource
import subprocess
import sys

WORK = """
import json, resource
from mcphub.listening import raise_open_files
said = raise_open_files()
print(json.dumps([said, *resource.getrlimit(resource.RLIMIT_NOFILE), raise_open_files()]))
"""


def test_the_hub_may_open_as_many_files_as_the_machine_lets_it():
    def low() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))

    done = subprocess.run(
        [sys.executable, "-c", WORK], preexec_fn=low, capture_output=True, text=True, check=True
    )
    said, soft, hard, again = json.loads(done.stdout)
    assert said == soft == hard == again == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def few(most):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


CLI = [sys.executable, "-c", "import sys; from mcphub.cli import main; sys.exit(main())"]


def test_a_hub_with_too_few_open_files_says_so_instead_of_serving(tmp_path):
    where = ["--dir", str(tmp_path / "hub")]
    subprocess.run([*CLI, "init", *where], capture_output=True, check=True)
    done = subprocess.run(
        [*CLI, "serve", *where, "--port", "0"],
        preexec_fn=few(100), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode and "may open 100 files only" in done.stderr
    assert "LimitNOFILE" in done.stderr and "sandbox" not in done.stderr


def test_few_open_files_take_nothing_from_the_sandbox(tmp_path):
    where = ["--dir", str(tmp_path / "hub"), "--json"]
    subprocess.run([*CLI, "init", *where], capture_output=True, check=True)
    levels = []
    for start in (None, few(400)):
        done = subprocess.run(
            [*CLI, "doctor", *where], preexec_fn=start, capture_output=True, text=True, check=False
        )
        checks = json.loads(done.stdout)["checks"]
        levels += [one["detail"] for one in checks if one["name"] == "sandbox level"]
    assert levels[0] == levels[1]


def test_doctor_tells_when_the_open_files_do_not_suffice_for_the_instances(tmp_path):
    where = ["--dir", str(tmp_path / "hub"), "--json"]
    subprocess.run([*CLI, "init", *where], capture_output=True, check=True)
    done = subprocess.run(
        [*CLI, "doctor", *where], preexec_fn=few(1000), capture_output=True, text=True, check=False
    )
    (found,) = [one for one in json.loads(done.stdout)["checks"] if one["name"] == "open files"]
    assert not found["ok"] and not found["matters"]
    assert "1000 at most" in found["detail"] and "LimitNOFILE" in found["hint"]
