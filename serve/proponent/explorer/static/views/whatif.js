/** What if: what the model is predicted to say without some of its training examples. */
import { useContext } from "../vendor/hooks.js";
import { estimateRemoval } from "../api.js";
import { FlipSet } from "../components/flip_set.js";
import { InputPicker } from "../components/input_picker.js";
import { markIn, Marks } from "../components/mark.js";
import { MarkExport } from "../components/mark_export.js";
import { NamedExamples, useNamedExamples } from "../components/named_examples.js";
import { Notices } from "../components/notices.js";
import { Probabilities } from "../components/probabilities.js";
import { Answer, Empty, NotCarried } from "../components/problem.js";
import { App } from "../context.js";
import { asTold, tells, withheldSentence } from "../disclosure.js";
import { caseOf } from "../explanation.js";
import { counted } from "../format.js";
import { html } from "../html.js";
import { useInput, loadInput } from "../input.js";
import { ESTIMATORS, hasInput, queryBody, questionKey, readQuestion } from "../question.js";
import { useRequest } from "../request.js";
import { formatHash } from "../route.js";
import { ESTIMATOR_WORDS, estimatorName, groupName, lossSentence } from "../removal_words.js";
import { removalSentence } from "../sentences.js";

export function WhatIf() {
  const { model } = useContext(App);
  if (tells(model, "ROUNDED")) return html`<${Questioned} />`;
  return html`<${Empty} title="What would change is not told to you">
    <p>${withheldSentence(model)} Estimates need the disclosure level “rounded”: the operator sets it for everybody (--disclosure) or for your token.</p>
  <//>`;
}

function Questioned() {
  const { model, route, update } = useContext(App);
  const question = readQuestion(route.params);
  const input = useInput(model, question);
  const choose = (changes) => update({ ...changes, target: null, against: null, flip: null });
  const carried = !input.data || input.data.body;
  return html`<div class="whatif">
    <div class="first">
      <${InputPicker} question=${question} input=${input.data} names=${model.class_names} onChoose=${choose} />
      <div class="panel said" aria-live="polite">
        ${!hasInput(question) ? html`<${Invitation} />` : input.error ? html`<${Answer} request=${input} />` : carried ? html`<${Removal} question=${question} />` : html`<${NotCarried} />`}
      </div>
    </div>
    ${hasInput(question) && carried && html`<${Marks.Provider} value=${{ marks: new Set(question.marks), onMark: markIn(question.marks, update) }}><${Marked} question=${question} /><${FlipSet} question=${question} /><//>`}
  </div>`;
}

function Invitation() {
  return html`<h2>What if some training examples were gone?</h2>
    <p>Choose an input, explain it, and mark examples in its lists. Here you will see what the model is predicted to say without them.</p>`;
}

function Removal({ question }) {
  const { model, route } = useContext(App);
  const { marks, estimator } = question;
  const key = marks.length ? JSON.stringify([model.name, questionKey(question), marks, estimator]) : null;
  const removal = useRequest(key, async (signal) => {
    const query = queryBody((await loadInput(model, question)).body, question);
    return { question, reply: await estimateRemoval(model.name, { query, example_ids: marks, estimator: estimatorName(estimator) }, signal) };
  });
  if (key === null) {
    return html`<h2>Nothing is marked yet</h2>
      <p>Mark examples in the lists of <a href=${formatHash({ view: "explain", params: route.params })}>Explain</a>, or look below for the smallest set that would flip the label.</p>`;
  }
  return html`<${Answer} request=${removal} what="Predicting what would change">${(data) => html`<${Change} model=${model} ...${data} />`}<//>`;
}

function Change({ model, question, reply }) {
  const { prediction, probabilities_after: after, group_size: size, train_size: trainSize } = reply;
  const asked = caseOf(model, question, prediction);
  const before = asTold(model, prediction.probabilities);
  const marked = [...new Set([asked.predicted, asked.target, after.indexOf(Math.max(...after)), asked.against ?? asked.target])];
  return html`
    <h2 class="sentence">${removalSentence(asked, groupName(size), before, after)}</h2>
    <p>${lossSentence(asked, reply.loss_change)} Predicted for a retraining without ${counted(size, "example")} of ${trainSize.toLocaleString("en")}; nothing was retrained.</p>
    <${Probabilities} names=${asked.names} before=${before} after=${after} marked=${marked} />
    ${reply.notices.length > 0 && html`<${Notices} notices=${reply.notices} trainSize=${trainSize} />`}`;
}

function Marked({ question }) {
  const { model, update } = useContext(App);
  const { marks, estimator } = question;
  const examples = useNamedExamples(model, question, marks);
  const known = new Map((examples.data?.scores ?? []).map((each) => [each.example_id, each]));
  if (!marks.length) return null;
  return html`<section class="panel marked-examples" aria-label="Marked examples">
    <div class="row"><h2>${counted(marks.length, "marked example")}</h2><button type="button" onClick=${() => update({ mark: null })}>Unmark all</button></div>
    <${EstimatorChoice} chosen=${estimator} onChoose=${(name) => update({ estimator: name === ESTIMATORS[0] ? null : name })} />
    <${NamedExamples} request=${examples} />
    <${MarkExport} examples=${marks.map((id) => known.get(id) ?? { example_id: id })} model=${model.name} />
  </section>`;
}

function EstimatorChoice({ chosen, onChoose }) {
  return html`<fieldset class="estimators"><legend>How the change is estimated</legend>
    ${ESTIMATORS.map(
      (name) => html`<label key=${name}><input type="radio" name="estimator" checked=${name === chosen} onChange=${() => onChoose(name)} /> <span><strong>${ESTIMATOR_WORDS[name].name}.</strong> <span class="quiet">${ESTIMATOR_WORDS[name].words}</span></span></label>`,
    )}
  </fieldset>`;
}
