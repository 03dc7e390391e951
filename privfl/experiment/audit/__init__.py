"""Audits: lower bounds on epsilon from the real pipeline, next to the stated figure."""

from privfl.experiment.audit.measure import AuditPlan, audit
from privfl.experiment.audit.result import AuditResult

__all__ = ["AuditPlan", "AuditResult", "audit"]
