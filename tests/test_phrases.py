"""Words that are to stay away: turns of phrase that a native engineer would not write, and what to write instead."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
READ = {".py", ".md", ".sh", ".toml"}

PHRASES = {
    r"(short|long) way": "fast path, full translation",
    r"told as": "reported as",
    r"taken down|takes? down|taking down": "recorded",
    r"remember(s|ed|ing)?": "cached, recorded",
    r"forg(et|ets|ot|otten|etting)": "dropped, invalidated",
    r"stands? at|stood at": "is at",
    r"stood there": "its bits were",
    r"but for": "except",
    r"a bug of ours": "a programming error",
    r"blamed": "traced",
    r"set(s|ting)? off|sets? it off": "trigger",
    r"what became of|what becomes of": "say what happens",
    r"for ever": "forever, or say what does not end",
    r"second look": "another check",
    r"without ado": "say what is not done",
    r"comes? to (the same|nothing|report)": "is the same, has no effect, reports",
    r"riddles?": "say it plainly",
    r"by leave of|asks? for leave|without leave": "if ... allows it",
    r"nobody (knows|asks)": "say what is missing",
    r"has no say": "does not count",
    r"the law": "authoritative, the specification",
    r"by the book": "as specified",
    r"(go|goes|gone|went) away": "is dropped, is removed, exits",
    r"(go|goes|lead|leads|pointer|points|mapped) (to )?nowhere": "is blocked, absent memory",
    r"mend(s|ed|ing)?": "repair, fix",
    r"all the same": "still",
    r"for (sure|certain)": "certainly, must",
    r"ha(s|ve) still to": "still has to",
    r"(makes?|made|making) room": "is evicted",
    r"tells? apart|told apart": "distinguishes",
    r"folded in": "combined with",
    r"on the market": "real",
    r"(lesser|such a|all) depths?|depth_before_type|pass_through_by_deepest": "levels",
    r"so to (say|speak)": "leave it out",
    r"as it were": "leave it out",
    r"(?<!there )(is|are|was|were) no (?!longer|more|other|such|less)[a-z]+": "is not a ...",
    r"unoffered": "unimplemented",
    r"through_(pages|first|second|nested)": "translate_*",
    r"drop_(pasids?|contexts|translations|interrupts)\w*": "invalidate(Selector...)",
    r"\bunmapped\(": "identity()",
    r"\bprocess_of\b|\bdecode_process\b": "pasid_context_of",
}
"""By pattern, in any case, of whole words: what to write instead."""

ALLOWED: dict[tuple[str, str | None], str] = {
    ("tests/test_phrases.py", None): "the list itself",
    ("docs/engine.md", r"forg(et|ets|ot|otten|etting)"): "a driver that forgets to flush does just that",
}
"""By file and pattern, None for every pattern: why it may stay."""


def tracked() -> list[str]:
    """The files of the project that people read."""
    return [name for name in files() if Path(name).suffix in READ or name == "Makefile"]


def files() -> list[str]:
    """The files of the project: those that git would commit; in an unpacked sdist, which has no git, all."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True, text=True
        )
        return listed.stdout.splitlines()
    every = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [str(path) for path in every if not path.parts[0].startswith((".venv", ".mypy_cache", ".hypothesis"))]


def findings() -> list[str]:
    """Every unwanted phrase, with its place."""
    patterns = {phrase: re.compile(rf"(?<!\w)(?:{phrase})(?!\w)", re.IGNORECASE) for phrase in PHRASES}
    found = []
    for name in tracked():
        if (name, None) in ALLOWED:
            continue
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            for phrase, pattern in patterns.items():
                if (match := pattern.search(line)) and (name, phrase) not in ALLOWED:
                    found.append(f"{name}:{number}: {match[0]!r}: {PHRASES[phrase]}")
    return found


def test_unwanted_phrases_stay_away() -> None:
    found = findings()
    assert not found, "\n".join(found)


def test_every_exception_is_used() -> None:
    """An exception for what is gone would hide what comes."""
    for (name, phrase), reason in ALLOWED.items():
        assert reason
        text = (ROOT / name).read_text()
        assert phrase is None or re.search(phrase, text, re.IGNORECASE), (name, phrase)
