"""Why did the service say that? Usage: python client.py IMAGE [ADDRESS [MODEL]]."""

from __future__ import annotations

import sys

from proponent import Client, ExplainOptions, ProponentError

image, address, model = [*sys.argv[1:], *("127.0.0.1:8500", "digits")[len(sys.argv) - 2 :]]
try:
    with Client(address, model=model, timeout_s=10) as client:
        explanation = client.explain(image, ExplainOptions(top_k=3))
except ProponentError as error:
    sys.exit(f"error: {error.message} [{error.reason}]")
print(f"{explanation.prediction.label} ({max(explanation.prediction.probabilities):.1%})")
for result in explanation.results:
    for sign, influences in (("+", result.proponents), ("-", result.opponents)):
        for found in influences:
            print(f"{result.measure.value:14} {sign} {found.example_id:14} {found.label:4} {found.score:+.4g}")
