"""Files are whole or not there, whatever is at their place and whatever happens on the way."""

import ast
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iommu.errors import MisuseError
from iommu.files import writing
from iommu.files.writing import whole_file, write_file
from tools.house import ROOT

OLD, NEW = b"old", b"new" * 10_000


@pytest.fixture(params=["unnamed", "named"])
def temporary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of temporary file: without a name, and with one where the file system needs it."""
    if request.param == "named":
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # a folder cannot be opened for writing: EISDIR
    return str(request.param)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


# What is there afterwards.


@pytest.mark.usefixtures("temporary")
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "out", NEW)
        with whole_file(tmp_path / "secret", private=True) as file:
            file.write(NEW)
    finally:
        os.umask(before)
    assert names(tmp_path) == ["out", "secret"]
    assert (tmp_path / "out").read_bytes() == NEW
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names(tmp_path)] == [0o640, 0o600]


@pytest.mark.usefixtures("temporary")
def test_a_file_that_is_replaced_keeps_mode_and_owner(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(OLD)
    out.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(out, 1234, 5678)
    before = out.stat()
    write_file(out, NEW)
    after = out.stat()
    assert out.read_bytes() == NEW
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    with whole_file(out, private=True) as file:
        file.write(OLD)
    assert (stat.S_IMODE(out.stat().st_mode), out.stat().st_uid) == (0o600, os.geteuid())


@pytest.mark.usefixtures("temporary")
def test_nobody_sees_a_part_and_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for kept in (None, OLD):
        if kept is not None:
            out.write_bytes(kept)
        with pytest.raises(KeyboardInterrupt), whole_file(out) as file:
            file.write(NEW)
            file.flush()
            assert (out.read_bytes() if out.exists() else None) == kept
            raise KeyboardInterrupt
        assert names(tmp_path) == ([] if kept is None else ["out"])
    assert out.read_bytes() == OLD


@pytest.mark.usefixtures("temporary")
def test_a_full_disk_leaves_nothing_and_names_the_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing beyond it fails in the same way."""
    out = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_file(out, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(out)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system of its own")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from iommu.files.writing import write_file;"
        "write_file(pathlib.Path(sys.argv[1]) / 'out', bytes(1 << 20))"
    )
    script = (
        f'mount -t tmpfs -o size=64k none {tmp_path} && {sys.executable} -c "{code}" {tmp_path}; ls -A {tmp_path}'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}: " + repr(
        f"{tmp_path}/out"
    )
    assert done.stdout == ""


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    try:
        os.close(os.open(tmp_path, os.O_WRONLY | os.O_TMPFILE))
    except OSError as error:
        pytest.skip(f"this file system gives every file a name: {error}")
    code = (
        "import sys, pathlib\nfrom iommu.files.writing import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1]) / 'out') as file:\n"
        "    file.write(bytes(1 << 20)); file.flush(); print(flush=True); sys.stdin.read()"
    )
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(
            [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        ) as process:
            assert process.stdout
            process.stdout.readline()
            process.send_signal(number)
        assert process.returncode == -number
        assert names(tmp_path) == []


# What is at the place.


@pytest.mark.usefixtures("temporary")
def test_a_link_that_the_user_named_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    out, real = tmp_path / "out", tmp_path / "there" / "real"
    out.symlink_to("there/real")
    for data in (OLD, NEW):  # the first leads to nothing yet
        write_file(out, data)
        assert out.is_symlink() and not real.is_symlink() and real.read_bytes() == data
    assert (names(tmp_path), names(real.parent)) == (["out", "there"], ["real"])


def test_no_planted_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that has the temporary name, which an attacker cannot know."""
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    monkeypatch.setattr(writing, "_temporary", lambda: ".guessed")
    (tmp_path / "precious").write_bytes(OLD)
    for name in (".guessed", ".out.part"):
        (tmp_path / name).symlink_to("precious")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "out", NEW)
    monkeypatch.undo()
    write_file(tmp_path / "out", NEW)
    assert (tmp_path / "precious").read_bytes() == OLD
    assert names(tmp_path) == [".guessed", ".out.part", "out", "precious"]


@pytest.mark.usefixtures("temporary")
def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, b"through")
    assert os.read(reading, 100) == b"through"
    os.close(reading)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and names(tmp_path) == ["pipe"]
    with pytest.raises(MisuseError, match="pipe is not a file"):
        reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        with whole_file(pipe, private=True):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    null, full = tmp_path / "null", tmp_path / "full"
    try:
        for node, minor in ((null, 3), (full, 7)):
            os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, minor))
            node.open("rb").close()
    except PermissionError as error:
        pytest.skip(f"no device can be used here: {error}")
    write_file(null, NEW)
    with pytest.raises(OSError, match="No space left") as caught:
        write_file(full, NEW)
    assert caught.value.filename == str(full)
    assert all(stat.S_ISCHR(each.stat().st_mode) for each in (null, full))
    assert names(tmp_path) == ["full", "null"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link", "-"])
@pytest.mark.parametrize("append", [False, True])
def test_the_standard_output_that_a_shell_has_opened_is_written_to(name: str, append: bool, tmp_path: Path) -> None:
    """The open file is written to and not replaced: what others write to it before and after stays."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = (
        "import sys, pathlib; from iommu.files.writing import write_file; print('before');"
        f"write_file(pathlib.Path('{name}'), b'table '); print('after')"
    )
    with (tmp_path / "out").open("ab" if append else "wb") as out:
        out.write(b"first ")
        out.flush()
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], stdout=out, cwd=tmp_path, check=True, env=environment)
        assert os.fstat(out.fileno()).st_ino == (tmp_path / "out").stat().st_ino
    text = (tmp_path / "out").read_bytes()
    assert sorted(text.split()) == [b"after", b"before", b"first", b"table"]
    if name != "-":
        assert text == b"first before\ntable after\n"


def test_a_descriptor_that_is_not_open(tmp_path: Path) -> None:
    closed = os.open(tmp_path, os.O_RDONLY)
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        write_file(Path(f"/dev/fd/{closed}"), NEW)
    assert caught.value.filename == f"/dev/fd/{closed}"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda place: place.mkdir(), IsADirectoryError),
        (lambda place: place.symlink_to(place.name), OSError),
        (lambda place: place.parent.rmdir(), FileNotFoundError),
    ],
    ids=["folder", "circle", "nowhere"],
)
def test_what_cannot_be_written_is_named(make: Callable[[Path], None], error: type[OSError], tmp_path: Path) -> None:
    place = tmp_path / "folder" / "out"
    place.parent.mkdir()
    make(place)
    with pytest.raises(error) as caught:
        write_file(place, NEW)
    assert caught.value.filename == str(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(OLD)
    (tmp_path / "out").chmod(0o400)
    with pytest.raises(PermissionError):
        write_file(tmp_path / "out", NEW)
    assert (tmp_path / "out").read_bytes() == OLD


# Nobody writes in another way.

ELSEWHERE = {
    "iommu/batch/trace_results.py": "CSV: rows are appended as they come; a killed run is resumed",
    "iommu/cli/main.py": "opens /dev/null in the place of standard output",
    "iommu/files/standard.py": "opens /dev/null",
    "iommu/files/unpacking.py": "a large input, unpacked into a file without a name",
    "iommu/files/writing.py": "this is the one way",
    "iommu/snapshot/writer.py": "a member of an archive, which is written by the one way",
    "qemu/vtd/apt.py": "what apt reads, in the private cache; written again in each run",
    "qemu/vtd/conformance/export/reproducer.py": "part of the exported file, which stands alone",
    "qemu/vtd/guest/initramfs/__init__.py": "a temporary folder and the private cache, under a lock, then renamed",
    "qemu/vtd/guest/kernel.py": "a folder of the private cache that is renamed when it is whole",
    "qemu/vtd/install.py": "a folder of the private cache that is renamed when it is whole",
    "qemu/vtd/private_cache.py": "a lock",
    "qemu/vtd/vm/run_directory.py": "a lock, and a folder of sockets",
}
"""The modules that open files for writing, and why these are none that a user has named."""

_TEMPORARY = {"mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile"}
_WRITING = {"write_text", "write_bytes", "rename", "copyfile", "copy2"} | _TEMPORARY
_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TMPFILE"}


def writers(tree: ast.Module) -> Iterator[int]:
    """The lines of calls that write files, or open them for that."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in _FLAGS:
            yield node.lineno
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [*node.args, *(key.value for key in node.keywords)]
        given += [each for choice in given if isinstance(choice, ast.IfExp) for each in (choice.body, choice.orelse)]
        texts = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        if name == "open" and any(set(text) & set("wax+") and set(text) <= set("wax+bt") for text in texts):
            yield node.lineno
        if name in _WRITING and not _is_memory(node):
            yield node.lineno
        if name == "replace" and len(node.args) == 1 and not node.keywords:  # of a Path; that of a str has two
            yield node.lineno


def _is_memory(node: ast.Call) -> bool:
    """`pipeline.write_bytes(address, data)` writes memory of a guest; a Path's takes one argument."""
    return isinstance(node.func, ast.Attribute) and node.func.attr == "write_bytes" and len(node.args) == 2


def test_every_writer_is_known() -> None:
    for code in (
        'open(x, "w")',
        'x.open("xb")',
        "x.write_text(y)",
        "os.open(x, os.O_RDWR)",
        "p.replace(q)",
        'open(x, "r" if y else "w")',
    ):
        assert list(writers(ast.parse(code))) == [1], code
    found = {
        str(path.relative_to(ROOT)): lines
        for top in ("iommu", "qemu")
        for path in sorted((ROOT / top).rglob("*.py"))
        if (lines := list(writers(ast.parse(path.read_text()))))
    }
    unknown = [f"{file}:{line}" for file, lines in found.items() if file not in ELSEWHERE for line in lines]
    assert unknown == [], "write files with iommu.files.writing"
    assert set(ELSEWHERE) == set(found)
