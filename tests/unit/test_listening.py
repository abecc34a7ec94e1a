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


def test_doctor_tells_when_the_open_files_do_not_suffice_for_the_instances(tmp_path):
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))

    cli = [sys.executable, "-c", "import sys; from mcphub.cli import main; sys.exit(main())"]
    where = ["--dir", str(tmp_path / "hub"), "--json"]
    subprocess.run([*cli, "init", *where], capture_output=True, check=True)
    done = subprocess.run(
        [*cli, "doctor", *where], preexec_fn=few, capture_output=True, text=True, check=False
    )
    (found,) = [one for one in json.loads(done.stdout)["checks"] if one["name"] == "open files"]
    assert not found["ok"] and not found["matters"]
    assert "1000 at most" in found["detail"] and "LimitNOFILE" in found["hint"]
