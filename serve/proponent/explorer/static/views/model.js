/** Model: what is known of it, how far its explanations can be trusted, and what changed since the bundle before. */
import { useContext } from "../vendor/hooks.js";
import { listBundles } from "../later_api.js";
import { AuditPlots } from "../components/audit_plots.js";
import { BundleDiff } from "../components/bundle_diff.js";
import { BundleTable } from "../components/bundle_table.js";
import { ModelFacts, modelSentence } from "../components/model_facts.js";
import { Answer } from "../components/problem.js";
import { App } from "../context.js";
import { html } from "../html.js";
import { useRequest } from "../request.js";

export function Model() {
  const { model } = useContext(App);
  const bundles = useRequest(`bundles ${model.name}`, async (signal) => (await listBundles(model.name, signal)).bundles);
  return html`<div class="model-view">
    <section class="panel"><h2 class="sentence">${modelSentence(model)}</h2><${ModelFacts} model=${model} /></section>
    <section class="audit" aria-labelledby="audit"><h2 id="audit">How faithful the explanations are</h2><${AuditPlots} model=${model} /></section>
    <section class="panel" aria-labelledby="bundles"><h2 id="bundles">Bundles in the store</h2>
      <${Answer} request=${bundles} what="Reading the store">${(found) => html`<${BundleTable} bundles=${found} answering=${model.bundle_digest} />`}<//>
    </section>
    <section class="panel" aria-labelledby="diff"><h2 id="diff">What changed in the reasons</h2>
      <${Answer} request=${bundles} what="Reading the store">${(found) => html`<${BundleDiff} bundles=${found} />`}<//>
    </section>
  </div>`;
}
