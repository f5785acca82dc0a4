/** The smallest set whose removal is predicted to flip the label, and what that prediction is worth. */
import { useContext } from "../vendor/hooks.js";
import { findFlipSet } from "../later_api.js";
import { App } from "../context.js";
import { asTold } from "../disclosure.js";
import { count, counted } from "../format.js";
import { html } from "../html.js";
import { loadInput } from "../input.js";
import { questionKey } from "../question.js";
import { useRequest } from "../request.js";
import { removalSentence } from "../sentences.js";
import { NamedExamples, useNamedExamples } from "./named_examples.js";
import { Probabilities } from "./probabilities.js";
import { Answer } from "./problem.js";

/** @param {{question: import("../question.js").Question}} props */
export function FlipSet({ question }) {
  const { model, update } = useContext(App);
  const key = question.flip ? JSON.stringify([model.name, questionKey({ ...question, target: null, against: null })]) : null;
  const found = useRequest(key, async (signal) => findFlipSet(model.name, { query: { ...(await loadInput(model, question)).body } }, signal));
  return html`<section class="panel flip" aria-label="Smallest set that flips the label"><h2>How few would have to go for another answer?</h2>
    <p class="quiet small">Searched among the examples that argued for the predicted label, up to a tenth of the training set. The search is greedy: a smaller set may exist. It predicts what a retraining would do and retrains nothing; the larger the set, the less sure it is.</p>
    ${!question.flip && html`<p><button type="button" class="primary" onClick=${() => update({ flip: "1" })}>Look for the smallest set</button></p>`}
    <${Answer} request=${found} what="Looking for the smallest set">
      ${(reply) => (reply.members.length ? html`<${Found} reply=${reply} question=${question} />` : html`<${NotFound} reply=${reply} model=${model} />`)}
    <//>
  </section>`;
}

function NotFound({ reply, model }) {
  const limit = reply.notices.find((each) => each.code === "CODE_NO_FLIP_FOUND")?.count;
  return html`<div role="status"><h3>No flip found</h3>
    <p>No set of up to ${counted(limit, "example")}${limit < model.train_size ? ` (of ${count(model.train_size)})` : ""} is predicted to make the model say anything but ${reply.prediction.label}. That does not prove that there is none: other examples may do together what these cannot.</p></div>`;
}

function Found({ reply, question }) {
  const { model, update } = useContext(App);
  const { members, prediction, probabilities_after: after, flipped_class_id: flipped } = reply;
  const before = asTold(model, prediction.probabilities);
  const ids = members.map((each) => each.example_id);
  const examples = useNamedExamples(model, question, ids);
  const asked = { names: model.class_names, predicted: prediction.class_id, target: prediction.class_id, against: null };
  const group = ids.length === 1 ? "this example" : `these ${count(ids.length)} examples`;
  const marked = new Set(question.marks);
  return html`<div role="status">
    <h3 class="sentence">${removalSentence(asked, group, before, after)}</h3>
    <${Probabilities} names=${asked.names} before=${before} after=${after} marked=${[prediction.class_id, flipped]} />
    <p><button type="button" disabled=${ids.every((id) => marked.has(id))} onClick=${() => update({ mark: [...new Set([...question.marks, ...ids])] })}>Mark ${ids.length === 1 ? "it" : "all of them"}</button></p>
    <${NamedExamples} request=${examples} />
  </div>`;
}
