/** The bundles of the store, with their dates. */
import { count, counted, figure, percent, size } from "../format.js";
import { date, shortDigest } from "../later_format.js";
import { html } from "../html.js";

/** @param {{bundles: any[], answering: string}} props Answering: digest of the bundle that answers calls. */
export function BundleTable({ bundles, answering }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Bundles"><table class="wide">
    <thead><tr><th scope="col">bundle</th><th scope="col">built</th><th scope="col">role</th><th scope="col" class="number">examples</th><th scope="col">curvature</th><th scope="col" class="number">damping</th><th scope="col" class="number">K</th><th scope="col" class="number">accuracy</th><th scope="col" class="number">agreement with retraining</th><th scope="col" class="number">size</th></tr></thead>
    <tbody>${bundles.map((each) => html`<${BundleRow} key=${each.digest} bundle=${each} answers=${each.digest === answering} />`)}</tbody>
  </table></div>`;
}

function BundleRow({ bundle, answers }) {
  const name = html`<th scope="row"><code title=${bundle.digest}>${shortDigest(bundle.digest)}</code></th>`;
  if (bundle.error) return html`<tr>${name}<td colspan="9" class="failed">cannot be read: ${bundle.error}</td></tr>`;
  const { audit, forgotten } = bundle;
  return html`<tr class="numeric">${name}
    <td>${date(bundle.created)}</td>
    <td>${role(bundle, answers)}</td>
    <td class="number">${count(bundle.train_size)}${forgotten > 0 && html` <span class="quiet">(${counted(forgotten, "forgotten", "forgotten")})</span>`}</td>
    <td>${bundle.curvature}</td>
    <td class="number">${figure(bundle.damping)}${bundle.damping_relative && " ×"}</td>
    <td class="number">${count(bundle.embedding_size)}</td>
    <td class="number">${percent(bundle.train_accuracy)}</td>
    <td class="number">${Number.isFinite(audit?.lds?.mean) ? figure(audit.lds.mean) : html`<span class="quiet">not measured</span>`}</td>
    <td class="number">${size(bundle.size_bytes)}</td>
  </tr>`;
}

const role = ({ is_current: current, is_previous: previous }, answers) =>
  [answers && "answers now", current && !answers && "published", previous && "the one before"].filter(Boolean).join(", ");
