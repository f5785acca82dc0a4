/** Explain: which training examples argued for and against a prediction. */
import { useContext, useEffect, useMemo, useState } from "../vendor/hooks.js";
import { estimateRemoval, listSamples } from "../api.js";
import { Controls } from "../components/controls.js";
import { InputPicker } from "../components/input_picker.js";
import { Later } from "../components/later.js";
import { markIn, Marks } from "../components/mark.js";
import { MeasureColumns } from "../components/measure_columns.js";
import { Probabilities } from "../components/probabilities.js";
import { Answer, Empty, NotCarried } from "../components/problem.js";
import { Drawing } from "../components/words.js";
import { App } from "../context.js";
import { asTold, missingReason, tells, withheldSentence } from "../disclosure.js";
import { askExplanation } from "../explanation.js";
import { html } from "../html.js";
import { loadInput, nounOf, useInput } from "../input.js";
import { hasInput, queryBody, questionKey, readQuestion } from "../question.js";
import { useRequest } from "../request.js";
import { formatHash } from "../route.js";
import { leadSentence, removalSentence, signSentences } from "../sentences.js";

/** Parts that few answers need, or that stand below the lists. */
const FIT_OFFER = { name: "FitOffer", from: () => import("../components/fit_offer.js") };
const NOTICES = { name: "Notices", from: () => import("../components/notices.js") };
const TRAY = { name: "Tray", from: () => import("../components/tray.js") };
const WORD_WEIGHTS = { name: "WordWeights", from: () => import("../components/word_weights.js") };
const QUALITY = { name: "Quality", from: () => import("../components/quality.js") };

export function Explain() {
  const { model, route, update } = useContext(App);
  const question = readQuestion(route.params);
  useFirstSample(model, question, update);
  const input = useInput(model, question);
  const answer = useRequest(explanationKey(model, question), (signal) => askExplanation(model, question, signal));
  const found = answer.data === "not carried" ? null : answer.data;
  const choose = (changes) => update({ ...changes, target: null, against: null, mark: null, flip: null });
  return html`<div class="explain">
    <div class="first">
      <${InputPicker} question=${question} input=${input.data} names=${model.class_names} onChoose=${choose} />
      <div class="panel said" aria-live="polite">
        ${!hasInput(question) && html`<${Invitation} />`}
        <${Answer} request=${answer} what="Asking the model and its training examples">
          ${(data) => (data === "not carried" ? html`<${NotCarried} />` : html`<${Said} explanation=${data} />`)}
        <//>
        ${input.data?.picture && canFit(model, answer.error) && html`<${Later} ...${FIT_OFFER} picture=${input.data.picture} onChoose=${choose} />`}
      </div>
    </div>
    <${Controls} question=${question} names=${model.class_names} predicted=${found?.reply.prediction.class_id ?? null} onChange=${update} />
    ${found && html`<${Lists} explanation=${found} pending=${answer.loading} question=${question} />`}
  </div>`;
}

/** Who has no input, and writes none, is shown the first sample where samples are open. */
function useFirstSample(model, question, update) {
  const open = model.allow_samples && model.samples > 0 && !hasInput(question);
  const { data } = useRequest(open ? `first sample ${model.name}` : null, (signal) => listSamples(model.name, { page_size: 1 }, signal));
  const first = data?.samples[0]?.sample_id;
  useEffect(() => {
    if (open && first && !document.querySelector(".written :focus")) update({ sample: first }, { replace: true });
  }, [open, first]);
}

/** A size that is not known cannot be fitted to: models of tensors have none. */
const canFit = ({ image_size: size }, error) =>
  error?.reason === "IMAGE_WRONG_CHANNELS" || (error?.reason === "IMAGE_WRONG_SIZE" && size.length > 0);

const explanationKey = (model, question) => {
  const { k, allow, deny, term, gamma, loss } = question;
  return hasInput(question) ? JSON.stringify([model.name, questionKey(question), k, allow, deny, term, gamma, loss]) : null;
};

const OWN = { picture: "drop a picture", text: "write a text", row: "fill in a row" };

function Invitation() {
  const { model } = useContext(App);
  return html`<h2>What shall be explained?</h2>
    <p>Choose one of the samples, or ${OWN[nounOf(model)]} here. You will see what the model makes of it, and which training examples argued for and against that.</p>`;
}

/** The sentence first, then the prediction. */
function Said({ explanation }) {
  const { model } = useContext(App);
  const { reply, asked, question, results } = explanation;
  const { proponents } = results.MEASURE_INFLUENCE;
  const marked = [asked.predicted, asked.target, ...(asked.against === null ? [] : [asked.against])];
  return html`
    <h2 class="sentence">${leadSentence(asked, { proponents, filtered: isFiltered(question) })} ${proponents.length > 0 && tells(model, "ROUNDED") && html`<${WithoutFirst} explanation=${explanation} />`}</h2>
    <p>The model says <strong>${reply.prediction.label}</strong>:${model.loss === "hinge" && html` <span class="quiet">(its loss, hinge, defines no probabilities: these figures rank the classes)</span>`}</p>
    <${Probabilities} names=${asked.names} before=${reply.prediction.probabilities} marked=${marked} />
    ${reply.notices.length > 0 && html`<${Later} ...${NOTICES} notices=${reply.notices} trainSize=${reply.train_size} />`}`;
}

const isFiltered = ({ allow, deny }) => allow.length + deny.length > 0;

/** What the removal of the strongest proponent is predicted to change. */
function WithoutFirst({ explanation: { question, results, asked, reply } }) {
  const { model } = useContext(App);
  const first = results.MEASURE_INFLUENCE.proponents[0].example_id;
  const removal = useRequest(JSON.stringify([model.name, questionKey(question), first]), async (signal) => {
    const { body } = await loadInput(model, question);
    return estimateRemoval(model.name, { query: queryBody(body, question), example_ids: [first] }, signal);
  });
  if (removal.error) return html`<span class="quiet">What would change without the first could not be estimated: ${removal.error.message}</span>`;
  // While it is asked anew, its data are of the explanation before.
  if (removal.loading || !removal.data) return html`<span class="quiet">Estimating what would change without the first …</span>`;
  return removalSentence(asked, "the first", asTold(model, reply.prediction.probabilities), removal.data.probabilities_after);
}

const hasExamples = (results) => Object.values(results).some((each) => each && each.proponents.length + each.opponents.length > 0);

function Lists({ explanation, pending, question }) {
  const { model, route, update } = useContext(App);
  const { reply, results, errors, asked } = explanation;
  const { marks } = question;
  const reason = missingReason(model);
  const shown = { names: model.class_names, reason, asked: explanation.record };
  const columns = useMemo(
    () => html`<${MeasureColumns} results=${results} errors=${errors} asked=${asked} trainSize=${reply.train_size} shown=${shown} />`,
    [explanation],
  );
  const [drawing, setDrawing] = useState(null);
  const { plus, minus } = signSentences(asked);
  const link = tells(model, "ROUNDED") ? formatHash({ view: "whatif", params: route.params }) : "";
  return html`<div class=${pending ? "answer pending" : "answer"} aria-busy=${pending}>
    <p class="sign quiet"><strong class="for">+</strong> ${plus}; <strong class="against">−</strong> ${minus}. Within a measure all bars have one scale; measures differ in theirs.</p>
    ${withheldSentence(model) && html`<p class="quiet small">${withheldSentence(model)}</p>`}
    ${!model.allow_thumbnails && html`<p class="quiet small">Examples come without ${nounOf(model)}s: ${reason}.</p>`}
    ${explanation.text && html`<${Later} ...${WORD_WEIGHTS} explanation=${explanation} on=${question.words} onDraw=${(draw) => setDrawing(() => draw)} />`}
    <${Marks.Provider} value=${{ marks: new Set(marks), onMark: markIn(marks, update) }}><${Drawing.Provider} value=${drawing}>${columns}<//><//>
    <${Later} ...${QUALITY} model=${model} answer=${reply} />
    ${(marks.length > 0 || (hasExamples(results) && tells(model, "RANKS"))) && html`<${Later} ...${TRAY} results=${results} names=${model.class_names} reason=${reason} marks=${marks} link=${link} onClear=${() => update({ mark: null }, { replace: true })} />`}
  </div>`;
}
