"""Was the work true: pure rules from what the warden saw to verdicts."""

from ray_cluster.verification.verdicts import Verdict, Window, judge, verified_ms

__all__ = ["Verdict", "Window", "judge", "verified_ms"]
