/** Explain: which training examples argued for and against a prediction. */
import { useContext } from "../vendor/hooks.js";
import { App } from "../context.js";
import { html } from "../html.js";
import { Empty } from "../components/problem.js";

export function Explain() {
  const { model } = useContext(App);
  return html`<${Empty} title=${`Choose an input for ${model.name}`} />`;
}
