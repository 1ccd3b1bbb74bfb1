"""What leaks anyway: attackers of declared access, their controls, and the report.

Read access.py and attack.py first, then the attackers one by one, then plan.py, which runs them.
"""

from minusface.audit.access import Access, Target
from minusface.audit.attack import Fit, Trained, fit_attacker

__all__ = ["Access", "Fit", "Target", "Trained", "fit_attacker"]
