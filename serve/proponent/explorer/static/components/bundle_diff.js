/** What changed in the reasons between two bundles. */
import { useContext, useState } from "../vendor/hooks.js";
import { getSample } from "../api.js";
import { diffBundles } from "../later_api.js";
import { App } from "../context.js";
import { count, counted, percent } from "../format.js";
import { date, shortDigest } from "../later_format.js";
import { html } from "../html.js";
import { nounOf } from "../input.js";
import { useRequest } from "../request.js";
import { MEASURES } from "../sentences.js";
import { Answer } from "./problem.js";
import { Words } from "./words.js";

const LENGTHS = [1, 5, 10, 25, 50];
const RANKED = MEASURES.filter(({ key }) => key !== "DIVINE").map(({ key, name }) => [key.replace("MEASURE_", "").toLowerCase().replace("_", "-"), name]);
const SHOWN = 30;
const NAMED = 4;

/** @param {{bundles: any[]}} props Those of the store, newest first. */
export function BundleDiff({ bundles }) {
  const { model, route, update } = useContext(App);
  const readable = bundles.filter((each) => !each.error && each.samples > 0);
  if (readable.length < 2) return html`<p>Two bundles that keep held-out samples are needed; the store has ${count(readable.length)}. <code>proponent rebuild</code> makes another one, and <code>proponent diff</code> compares bundles without samples.</p>`;
  const { base, other, measure, length } = readDiff(route.params, readable, model.bundle_digest);
  const change = (changes) => update(changes, { replace: true });
  return html`
    <fieldset class="controls"><legend class="visually-hidden">What is compared</legend>
      <${BundlePicker} label="From" bundles=${readable} value=${base} onChange=${(digest) => change({ base: digest })} />
      <${BundlePicker} label="to" bundles=${readable} value=${other} onChange=${(digest) => change({ other: digest })} />
      <${Choice} label="Measure" options=${RANKED} value=${measure} onChange=${(key) => change({ measure: key })} />
      <${Choice} label="Lists of the first" options=${LENGTHS.map((each) => [String(each), String(each)])} value=${length} onChange=${(text) => change({ length: text })} />
    </fieldset>
    ${base === other ? html`<p>Choose two different bundles.</p>` : html`<${Differences} query=${{ base, other, measure, top_k: length }} />`}`;
}

/** @returns {{base: string, other: string, measure: string, length: string}} What cannot be read counts as left out. */
function readDiff(params, bundles, answering) {
  const known = (digest) => bundles.find((each) => each.digest === digest)?.digest;
  const other = known(params.get("other")) ?? known(answering) ?? bundles[0].digest;
  const base = known(params.get("base")) ?? (bundles.find((each) => each.is_previous && each.digest !== other) ?? bundles.find((each) => each.digest !== other)).digest;
  const one = (values, text, fallback) => values.find((each) => each === text) ?? fallback;
  return { base, other, measure: one(RANKED.map(([key]) => key), params.get("measure"), RANKED[0][0]), length: one(LENGTHS.map(String), params.get("length"), "10") };
}

function BundlePicker({ label, bundles, value, onChange }) {
  const options = bundles.map((each) => [each.digest, `${shortDigest(each.digest)} · ${date(each.created)}`]);
  return html`<${Choice} class="broad" label=${label} options=${options} value=${value} onChange=${onChange} />`;
}

function Choice({ label, options, value, onChange, class: name = "" }) {
  return html`<label class="control"><span>${label}</span><select class=${name} value=${value} onChange=${({ target }) => onChange(target.value)}>
    ${options.map(([key, name]) => html`<option key=${key} value=${key}>${name}</option>`)}</select></label>`;
}

function Differences({ query }) {
  const { model } = useContext(App);
  const found = useRequest(JSON.stringify(["diff", model.name, query]), (signal) => diffBundles(model.name, query, signal));
  return html`<${Answer} request=${found} what="Comparing">${(reply) => html`<${Difference} reply=${reply} names=${model.class_names} />`}<//>`;
}

function Difference({ reply: { overall, samples, top_k: length, per_class: classes, per_sample: each }, names }) {
  const changed = overall.predictions_changed;
  return html`
    <p class="sentence">Over ${counted(samples, "held-out sample")} ${percent(overall.overlap)} of the ${counted(length, "strongest example")} on each side are the same${changed ? `; ${counted(changed, "prediction")} changed` : ", and no prediction changed"}.</p>
    <div class="pair">
      <div class="scroll" tabindex="0" role="region" aria-label="By class"><table class="wide">
        <thead><tr><th scope="col">predicted class</th><th scope="col" class="number">samples</th><th scope="col" class="number">same examples</th><td></td><th scope="col" class="number">predictions changed</th></tr></thead>
        <tbody>${classes.map(({ class_id: id, label, summary }) => html`<tr key=${id} class="numeric"><th scope="row">${label}</th><td class="number">${count(summary.samples)}</td><td class="number">${percent(summary.overlap)}</td><td class="bar-cell" aria-hidden="true"><span class="bar"><span style=${{ width: `${100 * summary.overlap}%` }}></span></span></td><td class="number">${count(summary.predictions_changed)}</td></tr>`)}</tbody>
      </table></div>
      <div><h3>Samples whose reasons changed most</h3>${each.length ? html`<${Samples} samples=${each.slice(0, SHOWN)} names=${names} />` : html`<p class="quiet">Single samples are shown where the service was started with --allow-samples, and to a token with the scope “examples” where it asks for one.</p>`}</div>
    </div>`;
}

function Samples({ samples, names }) {
  return html`<ul class="compared scroll" tabindex="0">${samples.map((sample) => html`<li key=${sample.sample_id}>
    <p><strong>${sample.sample_id}</strong> <span class="quiet numeric">${percent(sample.overlap, 0)} the same${sample.base_class_id !== sample.other_class_id && `; was ${names[sample.base_class_id]}, is ${names[sample.other_class_id]}`}</span></p>
    <${Itself} id=${sample.sample_id} />
    <dl class="moves">
      <${Moves} title="for, new" class="for" ids=${sample.entered_proponents} />
      <${Moves} title="for, gone" class="for" ids=${sample.left_proponents} />
      <${Moves} title="against, new" class="against" ids=${sample.entered_opponents} />
      <${Moves} title="against, gone" class="against" ids=${sample.left_opponents} />
    </dl>
  </li>`)}</ul>`;
}

/** The sample, where it is a text or a row: fetched when it is opened. */
function Itself({ id }) {
  const { model } = useContext(App);
  const [open, setOpen] = useState(false);
  const found = useRequest(open ? `sample ${model.name} ${id}` : null, (signal) => getSample(model.name, id, signal));
  const noun = nounOf(model);
  if (noun === "picture") return null;
  return html`<details onToggle=${({ target }) => setOpen(target.open)}><summary class="small quiet">The ${noun}</summary>
    <${Answer} request=${found} what="Fetching it">${({ sample }) => html`<${Words} example=${sample} />`}<//>
  </details>`;
}

function Moves({ title, class: side, ids }) {
  if (!ids.length) return null;
  return html`<dt class=${side}>${title}</dt><dd>${ids.slice(0, NAMED).join(", ")}${ids.length > NAMED && ` and ${count(ids.length - NAMED)} more`}</dd>`;
}
