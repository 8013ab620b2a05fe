"""A wave that runs the release in the shadow first: what the sequential test says of it. Pure."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from roadloop_cloud.rollout import evidence
from roadloop_cloud.rollout.gates import Gate
from roadloop_cloud.rollout.members import NOTHING, Heard, Member
from roadloop_cloud.rollout.state import Rollout, ShadowProof


class Judged(msgspec.Struct, frozen=True):
    """The verdict over all releases of the rollout."""

    verdict: Literal["pass", "fail", "undecided"]
    vehicles: int
    frames: int
    disagreed: int
    detail: str


def shadowing(rollout: Rollout) -> list[Member]:
    """The members that run it in the shadow now."""
    return [member for member in rollout.members if member.state == "shadow" and not member.taken_back]


def judge(rollout: Rollout, heard: Mapping[str, Heard]) -> Judged:
    """Every release has to pass; one that fails decides."""
    spec = rollout.spec
    assert spec.shadow is not None
    said = [heard.get(member.vehicle, NOTHING).report for member in shadowing(rollout)]
    reports = [report for report in said if report is not None]
    found = [evidence.judge(evidence.shadows_of(reports, ref), spec.shadow.bound) for ref in spec.releases]
    verdicts = [one.verdict for one in found]
    verdict: Literal["pass", "fail", "undecided"] = "undecided"
    if "fail" in verdicts:
        verdict = "fail"
    elif all(one == "pass" for one in verdicts):
        verdict = "pass"
    deciding = [one for one in found if one.verdict == verdict] or found
    return Judged(
        verdict,
        vehicles=max(one.vehicles for one in found),
        frames=sum(one.sums.frames for one in found),
        disagreed=sum(one.sums.disagreed for one in found),
        detail="; ".join(dict.fromkeys(one.reason for one in deciding))[:300],
    )


def gate(rollout: Rollout, heard: Mapping[str, Heard], now_s: float) -> Gate:
    """Where the current wave's test is."""
    shadow = rollout.spec.shadow
    if shadow is None:
        return Gate("shadow", "passed")
    proof = proof_of(rollout)
    if proof is not None:
        return Gate("shadow", "passed" if proof.decision == "pass" else "held", _said(proof))
    if not shadowing(rollout):
        return Gate("shadow", "waits", "has not begun")
    judged = judge(rollout, heard)
    ran_s = now_s - (now_s if rollout.shadow_since_s is None else rollout.shadow_since_s)
    text = f"{judged.frames} frames of {judged.vehicles} vehicles: {judged.verdict}: {judged.detail}"
    if judged.verdict == "undecided" and ran_s > shadow.max_s:
        return Gate("shadow", "held", f"not decided after {ran_s:.0f} s: {text}")
    return Gate("shadow", "waits", text)


def proof_of(rollout: Rollout) -> ShadowProof | None:
    """What was decided about the current wave."""
    return next((proof for proof in rollout.proofs if proof.wave == rollout.wave), None)


def _said(proof: ShadowProof) -> str:
    return f"{proof.decision} after {proof.frames} frames of {proof.vehicles} vehicles"
