"""`vtd dmar ...` as users run it: output, exit status, errors."""

import csv
import io
import json
from pathlib import Path

import pytest

from iommu.cli import main
from tests.dmar.hand import drhd, rmrr, scope, table

GPU = scope(1, 0, (2, 0))
IOAPIC = scope(3, 0xF0, (31, 0), number=2)
GOOD = table(drhd(0xFED90000, GPU), drhd(0xFED91000, IOAPIC, scope(4, 0xF0, (15, 0)), flags=1), flags=1)
BAD = table(drhd(0, GPU), rmrr(0x100000, 0x101000, GPU))


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> "Run":
    return Run(capsysbinary, monkeypatch)


class Run:
    """Runs the console script in this process."""

    def __init__(self, captured: pytest.CaptureFixture[bytes], patch: pytest.MonkeyPatch) -> None:
        self.captured, self.patch = captured, patch

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        self.patch.setattr("sys.argv", ["vtd", "dmar", *map(str, arguments)])
        status = 0
        try:
            main.main()
        except SystemExit as left:
            status = int(left.code or 0)
        out, err = self.captured.readouterr()
        return status, out.decode("latin-1"), err.decode()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good"
    path.write_bytes(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad"
    path.write_bytes(BAD)
    return path


def test_lint_reports_findings_and_verdicts(run: Run, good: Path, bad: Path) -> None:
    assert run("lint", good)[0] == 0
    status, out, err = run("lint", bad)
    assert (status, err) == (1, "")
    assert "error   0x0038  drhd.base-zero" in out
    assert "Linux   ignores VT-d" in out and "dmar_validate_one_drhd" in out
    assert "Windows no verdict" in out
    report = json.loads(run("lint", bad, "--json")[1])
    (zero,) = [finding for finding in report["findings"] if finding["rule"] == "drhd.base-zero"]
    assert (zero["severity"], zero["offset"], zero["source"]) == ("error", 56, "8.3")
    assert [verdict["effect"] for verdict in report["verdicts"]] == ["ignores_vtd", "ignores_vtd", None]


def test_lint_reads_what_show_refuses(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(GOOD[:-3])
    assert run("show", tmp_path / "cut")[0] == 2
    status, out, _ = run("lint", tmp_path / "cut")
    assert status == 1 and out.count("table.damaged") == 3


def test_lint_lists_its_rules(run: Run) -> None:
    status, out, _ = run("lint", "--rules")
    assert status == 0 and "drhd.base-zero" in out
    assert {rule["id"] for rule in json.loads(run("lint", "--rules", "--json")[1])} >= {"header.checksum"}


def test_build_inverts_show_and_fills_in_lengths_and_checksum(run: Run, good: Path, tmp_path: Path) -> None:
    plain = json.loads(run("show", good, "--json")[1])
    described, built = tmp_path / "table.json", tmp_path / "built"
    described.write_text(json.dumps(plain))
    assert run("build", described, "-o", built) == (0, "", "")
    assert built.read_bytes() == GOOD
    plain["structures"][0]["scopes"].append({"type": 1, "bus": 0, "path": [[20, 0]]})
    described.write_text(json.dumps(plain))
    assert run("build", described, "-o", "-")[1].encode("latin-1") == table(
        drhd(0xFED90000, GPU, scope(1, 0, (20, 0))),
        drhd(0xFED91000, IOAPIC, scope(4, 0xF0, (15, 0)), flags=1),
        flags=1,
    )
    plain["header"]["checksum"] ^= 1
    described.write_text(json.dumps(plain))
    run("build", described, "-o", built, "--exact")
    assert built.read_bytes()[9] == plain["header"]["checksum"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "table: an object is needed"),
        ('{"header": {"flags": 256}}', "FLAGS"),
        ('{"header": {}, "structures": [{"kind": "X"}]}', "structures[0].kind"),
        ("[" * 100000, "not valid JSON"),
    ],
)
def test_build_refuses_in_one_line(run: Run, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.json").write_text(text)
    status, out, err = run("build", tmp_path / "wrong.json", "-o", tmp_path / "none")
    assert (status, out) == (2, "") and message in err
    assert err.startswith("vtd: ") and err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_diff_reports_changes_and_exits_with_1(run: Run, good: Path, bad: Path) -> None:
    assert run("diff", good, good) == (0, "", "")
    status, out, _ = run("diff", good, bad)
    assert status == 1 and "unit at 0xfed90000: base was 0xfed90000, is 0x0" in out
    assert {"subject", "field", "before", "after"} == set(json.loads(run("diff", good, bad, "--json")[1])[0])


def test_survey_counts_for_people_and_programs(run: Run, good: Path, bad: Path, tmp_path: Path) -> None:
    status, out, err = run("survey", good, bad)
    assert (status, err) == (0, "") and "     2  DRHD" in out
    counted = json.loads(run("survey", good, bad, "--json")[1])["counts"]
    assert counted["structures"] == {"DRHD": 2, "RMRR": 1}
    rows = list(csv.DictReader(io.StringIO(run("survey", good, bad, "--csv")[1])))
    assert [(row["DRHD"], row["RMRR"], row["drhd.base-zero"]) for row in rows] == [("2", "0", "0"), ("1", "1", "1")]
    assert run("survey", good, "--html", tmp_path / "page.html")[0] == 0
    assert "<svg" in (tmp_path / "page.html").read_text()
    (tmp_path / "none").write_bytes(b"none")
    status, out, _ = run("survey", tmp_path / "none")
    assert status == 1 and "not read" in out


def test_topology_from_the_table_alone_and_with_a_machine(run: Run, good: Path, tmp_path: Path) -> None:
    status, out, _ = run("topology", good)
    assert status == 0 and "unit at 0xfed91000, segment 0, and all else of its segment" in out
    machine = tmp_path / "pci.json"
    machine.write_text(json.dumps([{"address": "0000:00:02.0", "class_code": 0x030000}]))
    status, out, _ = run("topology", good, "--pci", machine)
    assert status == 0 and "0000:00:02.0  graphics" in out and "can be assigned" in out
    (found,) = json.loads(run("topology", good, "--pci", machine, "--json")[1])
    assert (found["unit"], found["scope"], found["assignable"]) == (0xFED90000, "00:02.0", "yes")
    drawn, page, saved = tmp_path / "t.svg", tmp_path / "t.html", tmp_path / "saved.json"
    assert run("topology", good, "--pci", machine, "--svg", drawn, "--html", page, "--save", saved) == (0, "", "")
    assert "<svg" in drawn.read_text() and "<svg" in page.read_text()
    assert run("topology", good, "--pci", saved)[1] == run("topology", good, "--pci", machine)[1]


def test_topology_errors_are_one_line(run: Run, good: Path, tmp_path: Path) -> None:
    for arguments in (["--svg", "x.svg"], ["--pci", tmp_path], ["--pci", tmp_path / "missing"], ["--pci", good]):
        status, out, err = run("topology", good, *arguments)
        assert (status, out) == (2, "") and err.count("\n") == 1 and err.startswith("vtd: ")


def test_several_tables_in_one_input(run: Run, good: Path, bad: Path, tmp_path: Path) -> None:
    status, _, err = run("show", tmp_path)
    assert status == 2 and "2 different DMARs" in err
