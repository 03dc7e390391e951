"""A ring is planned for a cohort, but a sum may start with `min_roster` clients, all corrupt ones among them.
Must hold: by the planner's own tails the ring reaches the bits asked for at that roster, or the plan is refused."""

import math
import sys

from privfl.errors import PrivflError
from privfl.secagg import MaskedSum, MemoryDirectory, Ring, SumTask
from privfl.secagg.planner import assess_graph

asked, wrong = 40, []
for clients, corrupt, dropout in ((1000, 0.05, 0.1), (10_000, 0.05, 0.3)):
    try:
        scheme = MaskedSum(MemoryDirectory({}), corrupt=corrupt, dropout=dropout, security_bits=asked)
        terms = scheme.terms(SumTask(b"", tuple(range(clients)), 1, 1, Ring(32), 1))
    except PrivflError as error:
        print(clients, "refused:", error)
        continue
    if terms.degree == 0:
        continue
    least = terms.min_roster
    fraction = math.ceil(corrupt * clients) / least
    # Dropout 0: all that were planned for may have dropped out before the roster was made.
    plan = assess_graph(
        least, fraction, 0.0, degree=terms.degree, threshold=terms.threshold, arc=terms.arc, malicious=True
    )
    if plan.security_bits < asked:
        wrong.append(
            f"{clients} clients, corrupt {corrupt}, dropout {dropout}: {plan.security_bits:.1f} bits with {least}"
        )
print(f"FAILS: {asked} bits asked; " + "; ".join(wrong) if wrong else "holds")
sys.exit(bool(wrong))
