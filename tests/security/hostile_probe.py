# It imitates an attacker, call by call:
# ruff: noqa: PTH108, PTH115, PTH123, PTH208, SIM102
"""A hostile server: tries to get out and prints, as JSON, what it reached.

Run as a plain script by /usr/bin/python3, inside a sandbox or, as a control, outside. Facts of the
victim come in argv[1] as JSON. Each row answers {"reached": bool, "detail": text}; a row that needs
something the control lacks says why. Standard library only.
"""

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path

FACTS = json.loads(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
ROWS = {}


class Refused(Exception):
    pass


def row(function):
    ROWS[function.__name__] = function
    return function


def syscall(number, *args):
    result = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(arg) for arg in args])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def holds(path, wanted):
    return wanted.encode() in Path(path).read_bytes()


def dial(kind, address, send=b"hello"):
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family, kind) as sock:
        sock.settimeout(2)
        sock.connect(address)
        sock.sendall(send)
        return sock.recv(100) or b"closed"


@row
def inherited_descriptors():
    here = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2}
    for fd in here:
        try:
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("/proc/"):
                return f"descriptor {fd}"
        except OSError:
            continue
    raise Refused


@row
def hub_key_file():
    return holds(FACTS["key_file"], FACTS["secret"])


@row
def hub_directory_listing():
    return os.listdir(FACTS["hub_dir"])


@row
def shadow():
    return Path("/etc/shadow").read_text()[:10]


@row
def hub_file_readable_for_all():
    return holds(FACTS["open_file"], FACTS["secret"])


@row
def hub_path_exists():
    os.lstat(FACTS["open_file"])
    return "seen"


@row
def other_home_in_mountinfo():
    return holds("/proc/self/mountinfo", FACTS["other_home"])


@row
def own_home_path_in_mountinfo():
    return holds("/proc/self/mountinfo", FACTS["own_home"])


@row
def other_home_read():
    return holds(Path(FACTS["other_home"]) / "note", FACTS["secret"])


@row
def other_home_write():
    Path(FACTS["other_home"], "planted").write_text("x")
    return "written"


@row
def other_process_listed():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if (
                    holds(f"/proc/{name}/cmdline", FACTS["victim_mark"])
                    and int(name) != os.getpid()
                ):
                    if FACTS["secret"] not in Path(f"/proc/{name}/cmdline").read_text():
                        return name
            except OSError:
                continue
    raise Refused


@row
def other_process_environ():
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if holds(f"/proc/{name}/environ", FACTS["secret"]):
                    return name
            except OSError:
                continue
    raise Refused


@row
def hub_environ():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if holds(f"/proc/{name}/environ", FACTS["hub_canary"]):
                    return name
            except OSError:
                continue
    raise Refused


@row
def own_init_environ():
    return holds("/proc/1/environ", FACTS["hub_canary"])


@row
def kill_other():
    os.kill(FACTS["victim_pid"], 0)
    return "signalled" if victim_is_there() else False


def victim_is_there():
    return holds(f"/proc/{FACTS['victim_pid']}/cmdline", FACTS["victim_mark"])


@row
def ptrace_other():
    syscall(101, 16, FACTS["victim_pid"], 0, 0)  # PTRACE_ATTACH
    os.waitpid(FACTS["victim_pid"], 0x40000000)  # __WALL
    syscall(101, 17, FACTS["victim_pid"], 0, 0)
    return "attached"


@row
def ptrace_own_child():
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        syscall(101, 16, child, 0, 0)
        return "attached"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@row
def read_other_memory():
    Path(f"/proc/{FACTS['victim_pid']}/mem").open("rb").close()
    return "opened" if victim_is_there() else False


@row
def read_other_memory_by_call():
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("PN", ctypes.addressof(buffer), 8)
    try:
        syscall(310, FACTS["victim_pid"], address(local), 1, address(local), 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:  # that is: allowed, and nothing of the victim's is there
            raise
    return "read"


def address(data):
    kept = ctypes.create_string_buffer(data, len(data))
    KEPT.append(kept)
    return ctypes.addressof(kept)


KEPT = []


@row
def descriptor_of_other():
    pidfd = os.pidfd_open(FACTS["victim_pid"])
    os.close(syscall(438, pidfd, 0, 0))  # pidfd_getfd
    return "taken" if victim_is_there() else False


@row
def limits_of_other():
    import resource

    now = resource.prlimit(FACTS["victim_pid"], resource.RLIMIT_NOFILE)
    resource.prlimit(FACTS["victim_pid"], resource.RLIMIT_NOFILE, now)
    return "set" if victim_is_there() else False


@row
def path_socket():
    return dial(socket.SOCK_STREAM, FACTS["path_socket"])


@row
def abstract_socket():
    return dial(socket.SOCK_STREAM, "\0" + FACTS["abstract_socket"])


@row
def host_loopback_port():
    return dial(socket.SOCK_STREAM, ("127.0.0.1", FACTS["tcp_port"]))


@row
def host_loopback_port_by_other_address():
    return dial(socket.SOCK_STREAM, (FACTS["host_address"], FACTS["tcp_port"]))


@row
def udp_to_host():
    return dial(socket.SOCK_DGRAM, ("127.0.0.1", FACTS["udp_port"]))


@row
def udp_route_out():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((FACTS["host_address"], FACTS["udp_port"]))
        sock.settimeout(2)
        sock.send(b"x")
        return sock.recv(10)


@row
def dns_of_an_unlisted_name():
    return socket.gethostbyname(FACTS["unlisted_name"])


@row
def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "made"


@row
def packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    return "made"


@row
def vsock():
    socket.socket(40, socket.SOCK_STREAM).close()
    return "made"


@row
def netlink_audit():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9).close()
    return "made"


@row
def change_own_network():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        body = struct.pack("=BxHiII", 0, 0, 1, 1, 1)
        link.send(struct.pack("=IHHII", 16 + len(body), 16, 0x5, 1, 0) + body)
        error = -struct.unpack_from("=i", link.recv(4096), 16)[0]
    if error:
        raise OSError(error, os.strerror(error))
    return "changed"


@row
def sysv_shared_memory():
    found = LIBC.shmget(FACTS["shm_key"], 0, 0)
    if found < 0:
        raise Refused
    return "found"


@row
def sysv_message_queue():
    found = LIBC.msgget(FACTS["shm_key"], 0)
    if found < 0:
        raise Refused
    return "found"


@row
def sysv_semaphore():
    found = LIBC.semget(FACTS["shm_key"], 0, 0)
    if found < 0:
        raise Refused
    return "found"


@row
def posix_message_queue():
    library = ctypes.CDLL("librt.so.1", use_errno=True)
    if library.mq_open(FACTS["mqueue"].encode(), os.O_RDONLY) < 0:
        raise Refused
    return "opened"


@row
def dev_shm():
    return holds(FACTS["dev_shm"], FACTS["secret"])


@row
def shared_tmp():
    return holds(FACTS["tmp_file"], FACTS["secret"])


@row
def write_package():
    Path(FACTS["package"], "planted.py").write_text("x")
    return "written"


@row
def sees_lock_of_other():
    with open(Path(FACTS["package"], "server.py")) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "the victim's lock is seen"
    raise Refused


@row
def inotify_package():
    fd = LIBC.inotify_init1(os.O_NONBLOCK)
    LIBC.inotify_add_watch(fd, FACTS["package"].encode(), 0xFFF)
    print("WATCHING", flush=True)  # the test now reads a file of the package on the host
    sys.stdin.readline()
    try:
        return f"{len(os.read(fd, 4096))} bytes of events"
    finally:
        os.close(fd)


@row
def new_user_namespace():
    child = os.fork()
    if child == 0:
        os._exit(0 if LIBC.unshare(0x10000000) == 0 else 1)
    if os.waitpid(child, 0)[1]:
        raise Refused
    return "made"


@row
def mount():
    if LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    LIBC.umount2(b"/tmp", 2)
    return "mounted"


@row
def make_device():
    path = str(Path.home() / "device")
    os.mknod(path, 0o600 | 0o060000, os.makedev(254, 0))
    os.unlink(path)
    return "made"


@row
def become_root():
    os.setuid(0)
    return "root" if os.geteuid() == 0 else False


@row
def setuid_program():
    path = Path.home() / "su"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o4755)
    status = Path("/proc/self/status").read_text()
    path.unlink()
    if "NoNewPrivs:\t1" in status:
        raise Refused
    return "would gain rights"


@row
def keyring():
    syscall(250, 0, -4 & 0xFFFFFFFFFFFFFFFF, 1)  # KEYCTL_GET_KEYRING_ID, user keyring
    return "reached"


@row
def add_key():
    syscall(
        248,
        address(b"user\0"),
        address(b"mcphub-probe\0"),
        address(b"x"),
        1,
        -2 & 0xFFFFFFFFFFFFFFFF,
    )
    return "added"


@row
def bpf():
    attributes = struct.pack("IIIII", 1, 4, 4, 1, 0) + bytes(100)
    os.close(syscall(321, 0, address(attributes), len(attributes)))
    return "made"


@row
def perf_events():
    attributes = struct.pack("IIQ", 1, 112, 0) + bytes(96)
    os.close(
        syscall(298, address(attributes), 0, -1 & 0xFFFFFFFFFFFFFFFF, -1 & 0xFFFFFFFFFFFFFFFF, 0)
    )
    return "made"


@row
def open_by_handle():
    try:
        syscall(304, -100 & 0xFFFFFFFFFFFFFFFF, address(bytes(32)), 0)
    except OSError as error:
        if error.errno != errno.EINVAL:  # that is: allowed, and the handle is none
            raise
    return "opened"


@row
def change_root():
    os.chroot("/")
    return "changed"


@row
def io_uring():
    params = ctypes.create_string_buffer(120)
    os.close(syscall(425, 4, ctypes.addressof(params)))
    return "made"


@row
def userfaultfd():
    os.close(syscall(323, 1))
    return "made"


@row
def terminal_injection():
    with open("/dev/tty", "rb") as terminal:
        fcntl.ioctl(terminal, 0x5412, b"x")
    return "typed"


@row
def terminal_injection_is_filtered():
    read_end, write_end = os.pipe()
    try:
        fcntl.ioctl(read_end, 0x5412, b"x")
    except OSError as error:
        if error.errno == errno.EPERM:
            raise Refused from None
        return f"reached the driver: {error}"
    finally:
        os.close(read_end)
        os.close(write_end)


@row
def host_sys():
    return os.listdir("/sys/class")


@row
def write_sysctl():
    path = Path("/proc/sys/kernel/core_pattern")
    with path.open("r+") as file:
        return f"opened {file.name}"


def main():
    results = {}
    for name, function in ROWS.items():
        try:
            found = function()
            results[name] = {"reached": bool(found), "detail": str(found)[:100]}
        except Refused:
            results[name] = {"reached": False, "detail": "refused"}
        except (OSError, AttributeError) as error:
            results[name] = {"reached": False, "detail": str(error)[:100]}
    print(json.dumps(results), flush=True)


main()
