"""Installing a QEMU: from a mirror on this machine, whole or not at all, and only what is signed."""

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from qemu.vtd import apt, private_cache
from qemu.vtd.errors import InstallError
from qemu.vtd.found import find_all
from qemu.vtd.install import install
from qemu.vtd.probe import ENVIRONMENT, find_qemu, probe
from tests.qemu_vtd.mirror import Key, Mirror
from tests.qemu_vtd.remains import nothing_remains

LACKING = [tool for tool in ("apt-get", "dpkg-deb", "gpg", "gpgv") if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"a mirror needs {', '.join(LACKING)}")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Key]]:
    """The key of the mirror, and another one."""
    # Short, for gpg's agent has a socket in it.
    both = [Key(tmp_path_factory.mktemp("gpg") / name) for name in ("right", "wrong")]
    yield both
    for key in both:
        key.close()


@pytest.fixture
def mirror(tmp_path: Path, keys: list[Key], monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror that apt has, with its key as the archive's, and an empty cache."""
    found = Mirror(tmp_path / "mirror")
    sources(tmp_path, f"deb file:{found.folder} stable main\n", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(apt, "KEYRING", keys[0].public)
    return found


def sources(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sources.list").write_text(text)
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        'Acquire::Retries "0";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))


def left() -> list[str]:
    """What is in the cache, beside apt's lists and the lock."""
    return sorted(
        path.name for path in (private_cache.root() / "qemu").iterdir() if path.name not in (".apt", ".lock")
    )


def test_install(mirror: Mirror, keys: list[Key]) -> None:
    mirror.publish("9.0.1-2", keys[0])
    told: list[str] = []
    with nothing_remains():
        got = install("stable", lambda what, done: told.append(what))
    assert (got.suite, got.version) == ("stable", "9.0.1-2")
    assert probe(got.path).version == (9, 0, 1)
    assert find_qemu("stable") == got.path
    assert left() == ["stable-9.0.1-2"]
    assert list(dict.fromkeys(told)) == ["package lists", "download", "unpack"]


def test_a_qemu_is_private_and_sets_no_user_id(mirror: Mirror, keys: list[Key]) -> None:
    mirror.publish("9.0.1-2", keys[0])
    folder = Path(install("stable").path).parent
    for each in (private_cache.root(), folder.parent, folder):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700
    assert [path for path in folder.rglob("*") if path.stat().st_mode & 0o6000] == []


def test_a_second_call_leaves_it_alone_and_a_new_version_stands_beside_it(mirror: Mirror, keys: list[Key]) -> None:
    mirror.publish("9.0.9-1", keys[0])
    first = install("stable")
    made = Path(first.path).stat().st_mtime_ns
    for package in mirror.packages():
        package.unlink()  # nothing can be downloaded any more
    assert install("stable") == first
    assert Path(first.path).stat().st_mtime_ns == made
    mirror.publish("9.0.10-1", keys[0])
    assert install("stable").version == "9.0.10-1"
    assert left() == ["stable-9.0.10-1", "stable-9.0.9-1"]
    assert find_qemu("stable") == install("stable").path
    assert [each.version for each in private_cache.installed()] == ["9.0.10-1", "9.0.9-1"]


@pytest.mark.parametrize("signer", [None, 1], ids=["unsigned", "another key"])
def test_what_is_not_signed_by_debian_is_refused(mirror: Mirror, keys: list[Key], signer: int | None) -> None:
    mirror.publish("9.0.1-2", None if signer is None else keys[signer])
    with pytest.raises(InstallError, match="is not signed by Debian"):
        install("stable")
    assert left() == []


def test_the_system_cannot_turn_signatures_off(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "apt.conf").open("a") as file:
        file.write('Acquire::AllowInsecureRepositories "true";\nAPT::Get::AllowUnauthenticated "true";\n')
    mirror.publish("9.0.1-2", None)
    with pytest.raises(InstallError, match="is not signed by Debian"):
        install("stable")


def test_a_package_that_was_changed_is_refused(mirror: Mirror, keys: list[Key]) -> None:
    mirror.publish("9.0.1-2", keys[0])
    package = next(path for path in mirror.packages() if "qemu" in path.name)
    data = bytearray(package.read_bytes())
    data[-1] ^= 1
    package.write_bytes(data)
    with nothing_remains(), pytest.raises(InstallError, match="apt-get failed for stable"):
        install("stable")
    assert left() == []


@pytest.mark.parametrize("name", ["", "a b", "../x", "Trixie", "-o", "no/such", "$(id)"])
def test_a_name_that_no_suite_has(mirror: Mirror, name: str) -> None:
    with pytest.raises(InstallError, match="is not the name of a Debian suite"):
        install(name)


def test_a_suite_that_the_mirror_does_not_have(mirror: Mirror, keys: list[Key]) -> None:
    mirror.publish("9.0.1-2", keys[0])
    with pytest.raises(InstallError, match="the Debian mirror has no suite 'nosuch'"):
        install("nosuch")
    assert left() == []
    assert list((private_cache.root() / "qemu/.apt").iterdir()) == []


def test_no_network(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources(tmp_path, "deb http://127.0.0.1:1/ stable main\n", monkeypatch)
    with pytest.raises(InstallError, match="the Debian mirror cannot be reached"):
        install("stable")
    assert left() == []


def test_no_mirror(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources(tmp_path, "deb http://127.0.0.1:1/ elsewhere main\ndeb http://127.0.0.1:1/ stable extra\n", monkeypatch)
    with pytest.raises(InstallError, match="apt has no Debian mirror"):
        install("stable")


def test_no_space(mirror: Mirror, keys: list[Key], monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.publish("9.0.1-2", keys[0])
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(InstallError, match="0 MiB free"):
            install("stable")
    assert left() == []
    assert install("stable").version == "9.0.1-2"


def test_a_qemu_that_does_not_run_is_not_kept(mirror: Mirror, keys: list[Key]) -> None:
    mirror.publish("9.0.1-2", keys[0], "#!/bin/sh\necho no such library >&2\nexit 127\n")
    with nothing_remains(), pytest.raises(InstallError, match=r"9\.0\.1-2 does not run here: .*no such library"):
        install("stable")
    assert left() == []


@pytest.mark.parametrize("when", ["package lists", "download", "unpack"])
def test_ctrl_c(mirror: Mirror, keys: list[Key], when: str) -> None:
    mirror.publish("9.0.1-2", keys[0])

    def interrupt(what: str, done: float) -> None:
        if what == when:
            raise KeyboardInterrupt

    with nothing_remains(), pytest.raises(KeyboardInterrupt):
        install("stable", interrupt)
    assert left() == []
    assert install("stable").version == "9.0.1-2"


def test_what_a_killed_process_left_is_removed(mirror: Mirror, keys: list[Key]) -> None:
    mirror.publish("9.0.1-2", keys[0])
    (private_cache.root() / "qemu/.part-old/root").mkdir(parents=True)
    install("stable")
    assert left() == ["stable-9.0.1-2"]


def test_two_at_once(mirror: Mirror, keys: list[Key]) -> None:
    mirror.publish("9.0.1-2", keys[0])
    code = (
        "import sys; from pathlib import Path; from qemu.vtd import apt; from qemu.vtd.install import install;"
        "apt.KEYRING = Path(sys.argv[1]);"
        "print(install('stable', lambda what, done: print(what, file=sys.stderr)).path)"
    )
    words = [sys.executable, "-c", code, str(keys[0].public)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [each.communicate() for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert ended[0][0] == ended[1][0]
    assert sum("unpack" in each[1] for each in ended) == 1


def test_commands(mirror: Mirror, keys: list[Key]) -> None:
    vtd = str(Path(sys.executable).with_name("vtd"))
    ran = subprocess.run([vtd, "qemu", "install", "nosuch"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("vtd: ") and ran.stderr.count("\n") == 1
    mirror.publish("9.0.1-2", keys[0])
    got = install("stable")
    ran = subprocess.run([vtd, "qemu", "list", "--json"], capture_output=True, text=True, check=True)
    listed = {each["name"]: each for each in json.loads(ran.stdout)}
    assert listed["stable"]["path"] == got.path
    assert listed["stable"]["version"] == "9.0.1"
    assert listed["stable"]["devices"] == ["edu"]
    shown = subprocess.run([vtd, "qemu", "list"], capture_output=True, text=True, check=True).stdout
    assert "9.0.1  --qemu stable  (stable, 9.0.1-2)" in shown


def test_a_program_is_listed_once_and_a_broken_one_with_its_problem(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    program = folders[0] / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o700)
    (folders[1] / program.name).symlink_to(program)
    monkeypatch.setenv("PATH", ":".join(map(str, folders)))
    monkeypatch.setenv(ENVIRONMENT, str(program))
    (found,) = find_all()
    assert (found.name, found.where, found.build) == (str(program), ENVIRONMENT, None)
    assert "does not behave like a QEMU" in found.problem
