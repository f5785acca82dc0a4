"""Train the classifier, build its index in ./model_store, and say which points argued for one prediction."""

from __future__ import annotations

import torch
from moons import Moons, model

from proponent import Explainer, ExplainOptions, Store, load_spec, rebuild

data, network = Moons(seed=0), model()
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
for _ in range(500):
    loss = torch.nn.functional.cross_entropy(network(data.points), data.labels)
    loss = loss + 0.0005 * sum(parameter.square().sum() for parameter in network.parameters())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(network.state_dict(), "weights.pt")

explainer = Explainer.load(rebuild(load_spec("explain.yaml"), Store("model_store")))
[explanation] = explainer.explain([torch.tensor([0.5, 0.25])], [ExplainOptions(top_k=3)])
print("prediction:", explanation.prediction.label)
for result in explanation.results:
    print(result.measure.value, "for:", [found.example_id for found in result.proponents])
    print(result.measure.value, "against:", [found.example_id for found in result.opponents])
