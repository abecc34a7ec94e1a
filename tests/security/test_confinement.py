"""The hub's own sandbox as a part: a forked child enters it, and what it is told to show is all there is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unprivileged import ROOT, needs_plain_user, place_of_a_plain_user

from mcphub.spawn import seccomp
from mcphub.spawn.confinement import kernel, landlock
from mcphub.spawn.confinement.profile import HOME, Bind, Profile

# Forks, enters, looks round from inside, and tells; argv: profile as JSON, path of the sources.
CHILD = """
import json, os, socket, sys
sys.path.append(sys.argv[2])
from mcphub.spawn.confinement import entering, kernel
from mcphub.spawn.confinement.profile import Profile
profile = Profile.from_json(sys.argv[1])
kernel.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: the inner process comes back to this one
told, tell = os.pipe()
found, find = os.pipe()
if not os.fork():
    os.close(told)
    entering.enter(profile, kept=[find], told=lambda pid: os.write(tell, str(pid).encode()))
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    seen = {
        "pid": os.getpid(), "uid": os.getuid(), "groups": os.getgroups(), "host": socket.gethostname(),
        "root": sorted(os.listdir("/")), "pids": sorted(filter(str.isdigit, os.listdir("/proc"))),
        "net": [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]],
        "fds": sorted(fd for fd in range(3, 1000) if os.path.exists(f"/proc/self/fd/{fd}")),
        "find": find,
        "passwd": open("/etc/passwd").read(),
        **{name: status[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")},
    }
    for path in ("/new", "/usr/new", "/etc/new", "/dev/new", "/home/u/new", "/tmp/new", "/dev/shm/new"):
        try:
            open(path, "w").close()
            seen[path] = True
        except OSError:
            seen[path] = False
    os.write(find, json.dumps(seen).encode())
    os._exit(7)
os.close(tell)
os.close(find)
outer = os.waitpid(-1, 0)
inner, status = os.waitpid(-1, 0)
seen = json.loads(os.read(found, 65536))
print(json.dumps(seen | {"outer": outer[1], "told": os.read(told, 20).decode(), "inner": inner, "status": status}))
"""
SHOWN = ["dev", "etc", "home", "proc", "run", "tmp", "usr", "var"]


def profile_of(home: Path, *, uid: int | None) -> Profile:
    binds = [Bind("/usr", "/usr", own_inodes=uid is not None)]
    links = []
    for name in ("bin", "sbin", "lib", "lib64"):
        place = Path("/", name)
        if place.is_symlink():
            links.append((str(place), f"usr/{name}"))
        elif place.is_dir():
            binds.append(Bind(str(place), str(place)))
    binds += [Bind("/etc/passwd", "/etc/passwd"), Bind(str(home), HOME, writable=True)]
    return Profile(
        uid=uid,
        binds=tuple(binds),
        links=tuple(links),
        texts=(("/etc/passwd", "only me\n"),),
        seccomp=seccomp.program(),
        readable=("/",),
        writable=(HOME, "/tmp", "/dev", "/proc"),
    )


def check(seen: dict, uid: int) -> None:
    assert seen["pid"] == 1
    assert seen["pids"] == ["1"]
    assert seen["uid"] == uid
    assert seen["host"] == "mcp"
    assert set(SHOWN) <= set(seen["root"]) <= {*SHOWN, "bin", "sbin", "lib", "lib64"}
    assert seen["net"] == ["lo"]
    assert seen["fds"] == [seen["find"]]
    assert seen["passwd"] == "only me\n"
    assert {seen[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    writable = {path for path, done in seen.items() if path.startswith("/") and done}
    assert writable == {"/home/u/new", "/tmp/new", "/dev/shm/new"}
    assert int(seen["told"]) == seen["inner"]
    assert os.waitstatus_to_exitcode(seen["status"]) == 7


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    place.mkdir(mode=0o700)
    return place


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it changes to another kernel uid")
def test_a_forked_child_of_a_root_hub_enters_as_the_users_own_uid(home):
    os.chown(home, 200_016, 200_016)
    wanted = profile_of(home, uid=200_016).to_json()
    argv = [sys.executable, "-I", "-S", "-c", CHILD, wanted, str(ROOT / "src")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    check(seen, 200_016)
    assert seen["groups"] == []
    assert (home / "new").stat().st_uid == 200_016


@pytest.mark.root
@needs_plain_user
def test_a_forked_child_of_a_plain_hub_enters_an_own_user_namespace():
    with place_of_a_plain_user("confinement", ()) as place:
        wanted = profile_of(place.home, uid=None).to_json()
        argv = [*place.python, "-I", "-S", "-c", CHILD, wanted, str(place.root / "src")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        check(json.loads(done.stdout), 1000)


def test_a_profile_survives_its_journey():
    wanted = profile_of(Path("/srv/h"), uid=7)
    assert Profile.from_json(wanted.to_json()) == wanted


def test_a_profile_of_another_version_is_refused():
    with pytest.raises(ValueError, match="version"):
        Profile.from_json('{"namespaces": true}')


def test_this_processor_is_known():
    assert kernel.supported()
    assert landlock.abi() >= 0
