/** The training examples that stand in most lists: few for influence, many for its relative forms. */
import { useContext } from "../vendor/hooks.js";
import { listFrequentExamples } from "../later_api.js";
import { App } from "../context.js";
import { allowedView, missingReason } from "../disclosure.js";
import { count, counted, percent } from "../format.js";
import { html } from "../html.js";
import { followLight } from "../lit.js";
import { useRequest } from "../request.js";
import { isWorded } from "../rows.js";
import { MEASURES } from "../sentences.js";
import { Labels } from "./example_list.js";
import { Thumbnail } from "./picture.js";
import { Words } from "./words.js";
import { Answer } from "./problem.js";

const SHOWN = 10;
const SIDES = { proponents: "arguing for", opponents: "arguing against", "": "on either side" };
const LENGTHS = [1, 5, 10, 25, 50];
const RANKED = MEASURES.filter(({ key }) => key !== "DIVINE");

/** @param {{params: URLSearchParams, marks: Set<string>, onMark: (id: string, marked: boolean) => void, onChange: (changes: Record<string, any>) => void}} props */
export function FrequentExamples({ params, marks, onMark, onChange }) {
  const { model } = useContext(App);
  const side = params.get("side") ?? "proponents";
  const length = LENGTHS.find((each) => String(each) === params.get("length")) ?? 10;
  if (!model.samples) return html`<p>This bundle keeps no held-out samples whose lists could be counted. <code>proponent rebuild</code> stores them where the model's <code>explain.yaml</code> names a <code>held_out</code> set.</p>`;
  return html`
    <fieldset class="controls"><legend class="visually-hidden">Which lists</legend>
      <label class="control"><span>Examples</span><select value=${side} onChange=${({ target }) => onChange({ side: target.value === "proponents" ? null : target.value || "both" })}>
        ${Object.entries(SIDES).map(([key, name]) => html`<option key=${key} value=${key}>${name}</option>`)}</select></label>
      <label class="control"><span>in lists of the first</span><select value=${length} onChange=${({ target }) => onChange({ length: target.value === "10" ? null : target.value })}>
        ${LENGTHS.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}</select></label>
    </fieldset>
    <div class="columns" onMouseOver=${followLight} onFocusIn=${followLight}>
      ${RANKED.map((measure) => html`<${Column} key=${measure.key} measure=${measure} side=${side} length=${length} marks=${marks} onMark=${onMark} />`)}
    </div>`;
}

function Column({ measure: { key, name }, side, length, marks, onMark }) {
  const { model } = useContext(App);
  const query = { measure: key.replace("MEASURE_", "").toLowerCase().replace("_", "-"), side: side === "both" ? null : side, top_k: length, limit: SHOWN, view: allowedView(model) };
  const found = useRequest(JSON.stringify(["frequent", model.name, query]), (signal) => listFrequentExamples(model.name, query, signal));
  const shown = { names: model.class_names, reason: missingReason(model), marks, onMark };
  return html`<section class="column" aria-label=${name}><h3>${name}</h3>
    <${Answer} request=${found} what="Counting">${(reply) => html`<${Counted} reply=${reply} shown=${shown} />`}<//>
  </section>`;
}

function Counted({ reply: { examples, lists, slots, distinct }, shown }) {
  const taken = examples.reduce((sum, each) => sum + each.count, 0);
  return html`
    <p class="taken"><strong class="numeric">${percent(slots ? taken / slots : 0)}</strong> of all ${count(slots)} places are taken by these ${counted(examples.length, "example")}; <strong class="numeric">${count(distinct)}</strong> different ones fill them.</p>
    <span class="bar share" aria-hidden="true"><span style=${{ width: `${slots ? (100 * taken) / slots : 0}%` }}></span></span>
    <ol>${examples.map(({ example, count: number }) => html`<${Frequent} key=${example.example_id} example=${example} number=${number} lists=${lists} shown=${shown} />`)}</ol>`;
}

function Frequent({ example, number, lists, shown }) {
  const { example_id: id } = example;
  const worded = isWorded(example);
  return html`<li class=${worded ? "example worded" : "example"} data-example=${id}>
    <input type="checkbox" aria-label=${`Mark ${id}`} checked=${shown.marks.has(id)} onChange=${(event) => shown.onMark(id, event.target.checked)} />
    ${worded ? html`<${Words} example=${example} />` : html`<${Thumbnail} example=${example} reason=${shown.reason} class="small" />`}
    <span class="id" title=${id}>${id}</span>
    <span class="score numeric" title=${`In ${count(number)} of ${count(lists)} lists`}>${count(number)} <span class="quiet">of ${count(lists)}</span></span>
    <span class="labels"><${Labels} example=${example} names=${shown.names} /></span>
  </li>`;
}
