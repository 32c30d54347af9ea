"""What an audit says: ``audit.json`` is an :class:`Audit`, and its JSON Schema is ``Audit.model_json_schema()``."""

import enum
from collections.abc import Collection, Sequence

from pydantic import Field

from conf import Section
from curation.release.printable import printable

MAX_FINDINGS = 10


class Status(enum.StrEnum):
    """How a check ended. Evidence that is missing is NOT_EVALUATED, never PASS."""

    PASS = "PASS"
    FAIL = "FAIL"
    WARN = "WARN"  # true, and somebody should look at it
    NOT_EVALUATED = "NOT_EVALUATED"


class Check(Section):
    """One question and its answer."""

    name: str
    status: Status
    summary: str  # one sentence
    measured: dict[str, int] = {}
    findings: list[str] = Field(default=[], max_length=MAX_FINDINGS)  # the first few offenders


class Audit(Section):
    """The whole audit. It holds no time and no path, so that two audits of one release can be compared."""

    format: str = "openlvd-audit"
    format_version: int = 1
    release: str | None  # the manifest's digest; null where it cannot be read
    with_store: bool
    waived: list[str]  # checks that the auditor allows to stay unevaluated
    verdict: Status
    checks: list[Check]

    def exit_code(self) -> int:
        """0 passed, 1 a policy failed, 3 not enough evidence."""
        return {Status.FAIL: 1, Status.NOT_EVALUATED: 3}.get(self.verdict, 0)


def conclude(release: str | None, with_store: bool, checks: Sequence[Check], waived: Collection[str]) -> Audit:
    """One verdict: the worst of FAIL, NOT_EVALUATED (unless waived), WARN and PASS.

    Raises:
        ValueError: a waived name is no check's.
    """
    names = [check.name for check in checks]
    if unknown := sorted(set(waived) - set(names)):
        raise ValueError(f"--waive {unknown[0]}: no such check; the checks are {', '.join(names)}")
    found = {c.status for c in checks if c.status != Status.NOT_EVALUATED or c.name not in waived}
    order = (Status.FAIL, Status.NOT_EVALUATED, Status.WARN)
    verdict = next((status for status in order if status in found), Status.PASS)
    return Audit(
        release=release, with_store=with_store, waived=sorted(set(waived)), verdict=verdict, checks=list(checks)
    )


def table(audit: Audit) -> str:
    """The audit as lines for a terminal; text from the web is escaped."""
    lines = []
    for check in audit.checks:
        waived = " (waived)" if check.status == Status.NOT_EVALUATED and check.name in audit.waived else ""
        lines.append(f"{check.status:<14}{check.name:<15}{printable(check.summary)}{waived}")
        lines += [f"{'':<29}- {printable(finding)}" for finding in check.findings]
    scope = "release and store" if audit.with_store else "release alone"
    lines.append(f"{audit.verdict:<14}{'verdict':<15}{scope}, release {audit.release or 'unreadable'}")
    return "\n".join(lines)


def judged(name: str, summary: str, offences: Collection[str], measured: dict[str, int] | None = None) -> Check:
    """PASS without offences, FAIL with the first few of them."""
    status = Status.FAIL if offences else Status.PASS
    few = sorted(offences)[:MAX_FINDINGS]
    return Check(name=name, status=status, summary=summary, measured=measured or {}, findings=few)


def missing(name: str, why: str) -> Check:
    """NOT_EVALUATED, with what would be needed."""
    return Check(name=name, status=Status.NOT_EVALUATED, summary=why)
