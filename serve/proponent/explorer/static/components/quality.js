/** How far an answer can be trusted: in words, and one click deeper the figures. */
import { html } from "../html.js";
import { figure } from "../format.js";
import { date, milliseconds } from "../later_format.js";
import { dampingSentence, trustSentences } from "../trust.js";

/** @param {{model: any, answer: any}} props Answer: an ExplainResponse. */
export function Quality({ model, answer }) {
  const { timings, bundle_digest: digest } = answer;
  const quality = withAudits(model, answer);
  return html`<section class="panel quality"><h3>How far to trust this</h3>
    <ul class="sentences">${[...trustSentences(quality), dampingSentence(model)].map((each) => html`<li key=${each}>${each}</li>`)}</ul>
    <p class="quiet small">Answered by bundle <code>${digest.slice(0, 12)}</code>, built ${date(model.created)} from ${model.train_size.toLocaleString("en")} training examples.</p>
    <details><summary>The figures</summary>
      <dl class="facts">
        <${Fact} name="Bundle" value=${digest} code />
        <${Fact} name="Curvature" value=${quality.curvature} />
        <${Fact} name="Damping" value=${`${figure(model.damping)}${model.damping_relative ? " × each layer's mean eigenvalue" : ""}`} />
        <${Fact} name="Numbers per example (K)" value=${model.embedding_size.toLocaleString("en")} />
        <${Fact} name="Kept energy" value=${figure(quality.kept_energy, 6)} />
        <${Fact} name="Loss explained" value=${model.loss} />
        ${auditFacts(quality.audit ?? {}).map(([name, value]) => html`<${Fact} key=${name} name=${name} value=${value} />`)}
        ${timings.map(({ stage, duration }) => html`<${Fact} key=${stage} name=${`Time: ${stage}`} value=${`${milliseconds(duration)} ms`} />`)}
      </dl>
    </details>
  </section>`;
}

/** A reply carries what its bundle's rebuild measured; the model also knows what audits measured since. */
function withAudits(model, { quality, bundle_digest: digest }) {
  return digest === model.bundle_digest ? { ...quality, audit: { ...quality.audit, ...model.audit } } : quality;
}

/** @param {{name: string, value: any, code?: boolean}} props */
export function Fact({ name, value, code = false }) {
  return html`<div><dt>${name}</dt><dd class="numeric">${code ? html`<code>${value}</code>` : value}</dd></div>`;
}

/**
 * The figures of an audit, one line each; lists of points are for plots.
 * @param {Record<string, any>} audit @param {string} [prefix]
 * @returns {[string, string][]}
 */
export function auditFacts(audit, prefix = "audit") {
  return Object.entries(audit).flatMap(([key, value]) => {
    const name = `${prefix}.${key}`;
    if (value === null) return [[name, "not finite"]];
    if (Array.isArray(value)) return value.every(Number.isFinite) && value.length <= 4 ? [[name, value.map((each) => figure(each, 4)).join(" to ")]] : [];
    if (typeof value === "object") return auditFacts(value, name);
    return [[name, typeof value === "number" ? figure(value, 6) : String(value)]];
  });
}
