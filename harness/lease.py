"""Who works on a cell: a lease file that one runner holds, keeps alive and gives back, on a file system shared by machines.

    <out>/work/<cell>/lease-000003      generation 3; the highest generation that exists is the lease

* claim: generation g + 1 is created by link(2), which is atomic on NFS too, where g is absent, given back or expired. Exactly
  one runner can create it; it then removes g. No lock is needed for that, and no lease is ever renamed under its holder.
* renewal: a thread writes a counter into the holder's own open file every quarter of the TTL. Were the lease taken meanwhile,
  it would write into a file that no longer has a name.
* expiry: whoever wants the cell saw the very same bytes for a whole TTL of its own monotonic clock, looking often enough.
  Clocks of different machines are never compared. On the holder's own machine a holder that no longer runs is noticed at once.
* withdrawal: the new holder looks once more at g; if it beat in the meantime, the new holder withdraws. The old one beats, then
  looks for g + 1. Whatever the order, one of the two sees the other.
* fencing: `guard()` before every write that counts (record.write_atomic, checkpoints, weights) looks whether the lease is still
  held and raises LeaseLost otherwise. Between that look and the write lie microseconds; what a process that is stopped right
  there writes later is whole and of the same cell.

The time to live is written into the lease, so runners with different settings agree: $VDD_LEASE_TTL seconds, default 60.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEFAULT_TTL = 60.0  # seconds
SHORTEST, LONGEST = 0.2, 86_400.0
SIZE = 512  # bytes of a lease file, always: a beat overwrites it in place
FILE = re.compile(r"lease-(\d{6})")
UNLINKABLE = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class LeaseLost(Exception):
    """Another runner has taken the cell that this one was working on: stop, and write nothing more."""


def ttl_setting() -> float:
    """The TTL of new leases, from $VDD_LEASE_TTL. Raises UserError for what is no number of seconds in range."""
    from harness.errors import UserError

    text = os.environ.get("VDD_LEASE_TTL", str(DEFAULT_TTL))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not SHORTEST <= value <= LONGEST:
        raise UserError(f"$VDD_LEASE_TTL must be seconds between {SHORTEST} and {LONGEST:.0f}. Got {text[:40]!r}")
    return value


def clock() -> float:
    """Seconds on this machine's clock that never goes back and counts the time asleep, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def machine() -> str:
    """This boot of this machine and this space of process ids; "" where it cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def process_start(pid: int) -> str | None:
    """When a process began, in the kernel's ticks, or None where it is gone (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def path_of(folder: Path, generation: int) -> Path:
    return folder / f"lease-{generation:06d}"


def newest(folder: Path) -> int:
    """The highest generation in a cell's folder, 0 where there is none."""
    try:
        found = [int(match[1]) for entry in os.scandir(folder) if (match := FILE.fullmatch(entry.name))]
    except FileNotFoundError:
        return 0
    return max(found, default=0)


def content(path: Path) -> bytes | None:
    """A lease file's bytes, or None where there is none. Opened anew: that is when NFS asks the server."""
    try:
        with path.open("rb") as file:
            return file.read(SIZE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            return None
        raise


def parsed(data: bytes) -> dict[str, Any]:
    """What a lease file says, {} where it is torn or no lease."""
    try:
        found = json.loads(data)
        whole = isinstance(found, dict) and found.keys() >= {"token", "state", "host", "pid", "machine", "start", "ttl"}
        return found if whole and SHORTEST <= float(found["ttl"]) <= LONGEST else {}
    except (ValueError, TypeError, RecursionError):
        return {}


def dead(lease: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that no longer runs."""
    here = machine()
    if not here or lease.get("machine") != here or type(lease.get("pid")) is not int:
        return False
    return process_start(lease["pid"]) != lease["start"]


class Lease:
    """A held lease. `start()` keeps it alive; `check()` raises LeaseLost once it is gone; `release()` gives it back."""

    def __init__(self, folder: Path, generation: int, handle: int, said: dict[str, Any]):
        self.folder, self.generation, self.handle, self.said = folder, generation, handle, said
        self.path, self.token, self.ttl = path_of(folder, generation), said["token"], said["ttl"]
        self.beats, self.beaten = 0, clock()
        self.lost = self.after_death = False  # after_death: the holder before never gave it back
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._keep, daemon=True, name=f"lease {self.folder}")
        self.thread.start()

    def _keep(self) -> None:
        while not self.stopped.wait(self.ttl / 4):
            try:
                self.beat()
                self.check()
            except LeaseLost:
                return
            except OSError:  # the file system is away: others see no beat either, and `check` tells once it is back
                continue

    def beat(self) -> None:
        """Show that this runner lives."""
        with self.lock:
            if self.stopped.is_set():
                return
            self.beats += 1
            os.pwrite(self.handle, encoded(self.said | {"beat": self.beats}), 0)
            os.fsync(self.handle)
            self.beaten = clock()

    def check(self) -> None:
        """Raise LeaseLost where another runner holds the cell; beats first if the last beat is long ago."""
        if not self.lost:
            if clock() - self.beaten > self.ttl / 2:
                self.beat()
            self.lost = not self.holds()
        if self.lost:
            raise LeaseLost(f"another runner has taken over {self.folder}")

    def holds(self) -> bool:
        """Whether the file system says so."""
        data = content(self.path)
        return (
            data is not None
            and parsed(data).get("token") == self.token
            and not path_of(self.folder, self.generation + 1).exists()
        )

    def release(self) -> None:
        """Give the lease back. Its file stays, as the generation that the next one follows."""
        self.stopped.set()
        if self.thread is not None:
            self.thread.join()
        with self.lock:
            try:
                os.pwrite(self.handle, encoded(self.said | {"state": "released", "beat": self.beats}), 0)
                os.fsync(self.handle)
            except OSError as error:
                if error.errno != errno.ESTALE:  # taken, and its file removed
                    raise
            finally:
                os.close(self.handle)


def encoded(said: dict[str, Any]) -> bytes:
    """A lease file's content, always SIZE bytes."""
    return json.dumps(said).encode().ljust(SIZE - 1) + b"\n"


class Watch:
    """One runner's look at one cell's lease: is it free, held by another, or expired; and the attempt to take it.

    `expired`: bytes of a lease that another Watch of this machine found expired.
    """

    def __init__(self, folder: Path, expired: bytes | None = None):
        self.folder, self.expired = folder, expired
        self.seen: bytes | None = None
        self.since = self.looked = 0.0
        self.generation = 0

    def free(self) -> bool:
        """Look once: True where nobody (any longer) holds the cell."""
        now = clock()
        self.generation = newest(self.folder)
        data = content(path_of(self.folder, self.generation)) if self.generation else b""
        if data is None:  # removed between the two looks: somebody has just taken the next one
            return False
        said = parsed(data)
        ttl = float(said.get("ttl", DEFAULT_TTL))
        if data != self.seen or now - self.looked > ttl / 2:  # a beat, or this process was asleep itself: begin again
            self.seen, self.since = data, now
        self.looked = now
        if self.generation == 0 or said.get("state") == "released" or data == self.expired or dead(said):
            return True
        if now - self.since > ttl:
            self.expired = data
            return True
        return False

    @property
    def holder(self) -> str:
        """`host, process 123` as the last look saw it."""
        said = parsed(self.seen or b"")
        return f"{said['host']}, process {said['pid']}" if said else "another runner"

    def take(self) -> Lease | None:
        """The lease, where a look says that it is free and nobody was faster; else None."""
        if not self.free():
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        before, seen = path_of(self.folder, self.generation), self.seen
        said = {
            "token": secrets.token_hex(16), "state": "held", "host": socket.gethostname()[:64], "pid": os.getpid(),
            "machine": machine(), "start": process_start(os.getpid()), "ttl": ttl_setting(), "beat": 0,
        }  # fmt: skip
        handle = create(path_of(self.folder, self.generation + 1), said)
        if handle is None:
            return None
        lease = Lease(self.folder, self.generation + 1, handle, said)
        overtaken = newest(self.folder) != lease.generation or (self.generation and content(before) != seen)
        if overtaken or not lease.holds():
            lease.path.unlink(missing_ok=True)  # ours alone: nobody takes a lease that was never seen for a TTL
            os.close(handle)
            return None
        lease.after_death = parsed(seen or b"").get("state", "released") != "released"
        for entry in list(os.scandir(self.folder)):
            match = FILE.fullmatch(entry.name)
            if (match and int(match[1]) < lease.generation) or entry.name.endswith(".part"):
                Path(entry.path).unlink(missing_ok=True)
        return lease


def create(path: Path, said: dict[str, Any]) -> int | None:
    """Make a lease file, whole from the first moment, unless it exists; an open handle to it, or None."""
    part = path.with_name(f".{path.name}.{said['token']}.part")
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.pwrite(handle, encoded(said), 0)
        os.fsync(handle)
        try:
            os.link(part, path)
            return handle
        except OSError as error:
            if os.fstat(handle).st_nlink == 2:  # NFS: done, but the answer was lost and the question asked again
                return handle
            os.close(handle)
            if error.errno not in UNLINKABLE:
                if isinstance(error, (FileExistsError, FileNotFoundError)):  # not found: tidied away by a new holder
                    return None
                raise
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return None
        os.pwrite(handle, encoded(said), 0)
        os.fsync(handle)
        return handle
    finally:
        part.unlink(missing_ok=True)


_current: Lease | None = None  # of the cell that this process is working on


@contextlib.contextmanager
def held(lease: Lease) -> Iterator[None]:
    """Work under a lease: it is kept alive, `guard` looks at it, and it is given back at the end."""
    global _current
    previous, _current = _current, lease
    lease.start()
    try:
        yield
    finally:
        _current = previous
        lease.release()


def guard() -> None:
    """Before a write that counts: LeaseLost where this process works on a cell that another runner has taken."""
    if _current is not None:
        _current.check()
