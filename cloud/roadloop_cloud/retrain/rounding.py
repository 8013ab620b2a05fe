"""When a refused candidate is worth a training that is aware of int8. Pure."""

from roadloop_cloud.gate.figures import Verdict

_ANSWERS = ("better", "slices", "calibration", "robust")
"""Gates on how well the quantized file answers, by the first word of their names; the others judge something else."""


def may_be_rounding(verdict: Verdict) -> bool:
    """Whether it was refused, and by nothing that a network which bears rounding better would not pass either."""
    refused = [gate.gate.split()[0] for gate in verdict.gates if not gate.passed]
    return bool(refused) and all(name in _ANSWERS for name in refused)
