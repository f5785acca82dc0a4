/** The page: which model, which view, and what stands in their way. */
import { render } from "./vendor/preact.js";
import { useCallback, useEffect, useMemo, useState } from "./vendor/hooks.js";
import { getModel, listModels } from "./api.js";
import { lastDigest, onDigest } from "./bundles.js";
import { Header, VIEWS } from "./components/header.js";
import { Later } from "./components/later.js";
import { Answer, Empty } from "./components/problem.js";
import { App } from "./context.js";
import { html } from "./html.js";
import { useRequest } from "./request.js";
import { go, useRoute, withChanges } from "./route.js";
import { Explain } from "./views/explain.js";

/** The view that is seen first comes with the page, the others when they are looked at. */
const LATER = {
  whatif: { name: "WhatIf", from: () => import("./views/whatif.js") },
  data: { name: "Data", from: () => import("./views/data.js") },
  model: { name: "Model", from: () => import("./views/model.js") },
};

function Page() {
  const route = useRoute();
  const [generation, setGeneration] = useState(0);
  const refresh = useCallback(() => setGeneration((n) => n + 1), []);
  const update = useCallback(
    (changes, { replace = false, view = route.view } = {}) =>
      go({ view, params: withChanges(route.params, changes) }, { replace }),
    [route.view, route.params.toString()],
  );
  const base = useMemo(() => ({ model: null, route, update, generation, refresh }), [route.view, update, generation]);
  return html`<${App.Provider} value=${base}><${Shell} app=${base} /><//>`;
}

/** @param {{app: import("./context.js").AppState}} props */
function Shell({ app }) {
  const { route, update, refresh } = app;
  const models = useRequest("models", listModels);
  const served = models.data ?? [];
  const chosen = route.params.get("model") ?? served.find((each) => each.ready)?.name ?? served[0]?.name ?? "";
  const toModel = (name) => go({ view: route.view, params: new URLSearchParams({ model: name }) });
  useEffect(() => {
    if (chosen && !route.params.has("model")) update({ model: chosen }, { replace: true });
  }, [chosen, update]);
  return html`
    <${Header} models=${served} model=${chosen} route=${route} onModel=${toModel} onToken=${refresh} />
    <main id="main" tabindex="-1">
      <${Answer} request=${models} what="Asking which models are served">
        ${(found) => (found.length ? html`<${OfModel} app=${app} name=${chosen} />` : html`<${Empty} title="No model is served" />`)}
      <//>
    </main>`;
}

function OfModel({ app, name }) {
  const model = useRequest(`model ${name}`, (signal) => getModel(name, signal));
  return html`<${Answer} request=${model} what=${`Asking about ${name}`}>
    ${(found) => found.name === name && html`<${App.Provider} value=${{ ...app, model: found }}>
      <${StaleBundle} model=${found} refresh=${app.refresh} />
      <${View} key=${name} name=${app.route.view} />
    <//>`}
  <//>`;
}

/** Says that another bundle answers by now than the one the page began with. */
function StaleBundle({ model, refresh }) {
  const [, rerender] = useState(0);
  useEffect(() => onDigest(() => rerender((n) => n + 1)), []);
  const digest = lastDigest(model.name);
  if (!digest || digest === model.bundle_digest) return null;
  return html`<section class="banner" role="alert">
    <p>The model was published anew while this page was open: bundle <code>${digest.slice(0, 12)}</code> answers now, part of what you see is of <code>${model.bundle_digest.slice(0, 12)}</code>.</p>
    <button type="button" onClick=${refresh}>Show everything anew</button>
  </section>`;
}

function View({ name }) {
  useEffect(() => {
    document.title = `${VIEWS.find(([view]) => view === name)?.[1] ?? name} · proponent`;
  }, [name]);
  if (name === "explain") return html`<${Explain} />`;
  if (name in LATER) return html`<${Later} ...${LATER[name]} />`;
  return html`<${Empty} title=${`There is no view “${name}”`}><p><a href="#/explain">Explain a prediction</a></p><//>`;
}

render(html`<${Page} />`, document.getElementById("app"));
