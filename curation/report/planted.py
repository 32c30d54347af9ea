"""What was planted beside what was found: each planted case against the ledger, and the drops that no case explains."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from curation.pocket_web.truth import KEEP, Case
from curation.report.collect import SELECTION_STAGES, UNITS, Drop
from curation.schema import STAGES

AS_EXPECTED, OTHERWISE, MISSED = "as expected", "for another reason", "missed"
NOT_JUDGED = "not judged"  # the stage that decides has not run: neither right nor wrong


@dataclass(frozen=True)
class Finding:
    """A planted case and what became of it; ``drop`` is the ledger row that decided, where one did."""

    case: Case
    outcome: str
    drop: Drop | None


@dataclass(frozen=True)
class Rate:
    """Precision and recall of one reason, as counts over the cases that could be judged."""

    reason: str
    planted: int
    found: int  # of the planted
    dropped: int
    right: int  # of the dropped


@dataclass(frozen=True)
class Comparison:
    """All findings, and the unexpected: drops before the selection that no planted case explains."""

    findings: list[Finding]
    unexpected: list[Drop]
    rates: list[Rate]


def compare(cases: Sequence[Case], drops: Sequence[Drop], finished: Collection[str] = STAGES) -> Comparison:
    """Judge every case, then every drop that a stage before the selection made.

    A case counts as found when its unit was dropped for the expected reason or one that is as right; where the
    stage may choose which of two copies goes, also when the other one was.

    Args:
        cases: what was planted.
        drops: every drop of the current runs.
        finished: the stages that have run.
    """
    by_url: dict[str, list[Drop]] = {}
    by_image: dict[str, list[Drop]] = {}
    for drop in sorted(drops, key=lambda d: STAGES.index(d.stage)):
        if drop.url is not None:
            by_url.setdefault(drop.url, []).append(drop)
        if drop.image_id is not None and drop.stage not in UNITS:
            by_image.setdefault(drop.image_id, []).append(drop)

    def about(url: str | None, image_id: str | None) -> list[Drop]:
        return (by_url.get(url, []) if url else []) + (by_image.get(image_id, []) if image_id else [])

    findings, explained, right = [], set(), set()
    for case in cases:
        own = about(case.url, case.image_id)
        if case.expected == KEEP:
            early = [d for d in own if STAGES.index(d.stage) <= STAGES.index(case.stage)]
            outcome = OTHERWISE if early else AS_EXPECTED if case.stage in finished else NOT_JUDGED
            findings.append(Finding(case, outcome, early[0] if early else None))
            continue
        accepted = {case.expected, *case.also}
        others = about(case.of, case.of_image_id) if case.either else []
        match = next((d for d in [*own, *others] if d.reason in accepted), None)
        explained.update(own if match is None else [*own, match])
        if match is not None:
            right.add(match)
        outcome = AS_EXPECTED if match else OTHERWISE if own else MISSED if case.stage in finished else NOT_JUDGED
        findings.append(Finding(case, outcome, match or (own[0] if own else None)))
    unexpected = [d for d in drops if d.stage not in SELECTION_STAGES and d not in explained]
    return Comparison(findings, unexpected, _rates(findings, drops, right))


def _rates(findings: Sequence[Finding], drops: Sequence[Drop], right: set[Drop]) -> list[Rate]:
    findings = [f for f in findings if f.case.expected != KEEP and f.outcome != NOT_JUDGED]
    reasons = list(dict.fromkeys(f.case.expected for f in findings))
    rates = []
    for reason in reasons:
        planted = [f for f in findings if f.case.expected == reason]
        made = [d for d in drops if d.reason == reason]
        rates.append(
            Rate(
                reason,
                planted=len(planted),
                found=sum(f.outcome == AS_EXPECTED for f in planted),
                dropped=len(made),
                right=sum(d in right for d in made),
            )
        )
    return rates
