/** Data: what the training set looks like to the model that was trained on it. */
import { useContext, useMemo } from "../vendor/hooks.js";
import { listExamples, listSuspects, summarizeExamples } from "../later_api.js";
import { ClassTable } from "../components/class_table.js";
import { DataFilters } from "../components/data_filters.js";
import { ExampleGrid } from "../components/example_grid.js";
import { FrequentExamples } from "../components/frequent_examples.js";
import { markIn } from "../components/mark.js";
import { MarkExport } from "../components/mark_export.js";
import { Answer, Problem } from "../components/problem.js";
import { SelfInfluence } from "../components/self_influence.js";
import { App } from "../context.js";
import { allowedView, missingReason, tells, withheldSentence } from "../disclosure.js";
import { listQuery, ORDERS, readFilters } from "../filters.js";
import { count, counted } from "../format.js";
import { html } from "../html.js";
import { usePages } from "../pages.js";
import { readQuestion } from "../question.js";
import { useRequest } from "../request.js";
import { suspectSentence } from "../suspects.js";

const WITHHELD = "How large it is, this service tells only callers of the disclosure level “full”.";

export function Data() {
  const { model } = useContext(App);
  const summary = useRequest(`summary ${model.name}`, (signal) => summarizeExamples(model.name, {}, signal));
  return html`<div class="data">
    <${Answer} request=${summary} what="Counting the training examples">${(found) => html`<${Overview} summary=${found} />`}<//>
    ${tells(model, "RANKS") ? html`<${Named} summary=${summary.data} />` : html`<p class="quiet">${withheldSentence(model)} Lists of them need the disclosure level “ranks”.</p>`}
  </div>`;
}

/** The examples by their ids, where these are told. */
function Named({ summary }) {
  const { route, update } = useContext(App);
  const { marks } = readQuestion(route.params);
  const onMark = markIn(marks, update);
  return html`
    <${Examples} summary=${summary} marks=${marks} onMark=${onMark} />
    <section class="panel" aria-labelledby="frequent"><h2 id="frequent">Examples that stand in most lists</h2>
      <p class="quiet">Of each held-out sample the explanations were computed: which training examples turn up again and again? Influence tends to name the same few outliers; its relative forms name examples that speak about one input.</p>
      <${FrequentExamples} params=${route.params} marks=${new Set(marks)} onMark=${onMark} onChange=${(changes) => update(changes, { replace: true })} />
    </section>`;
}

function Overview({ summary }) {
  const { model, update } = useContext(App);
  const list = (filters) => update({ show: "all", ...filters }, { replace: true });
  const onRange = (least, most) => list({ least: String(Number(least.toPrecision(3))), most: String(Number(most.toPrecision(3))) });
  const onClass = (id) => list({ label: [String(id)] });
  const narrows = model.allow_examples;
  return html`
    <p class="sentence">${suspectSentence(summary)}</p>
    <div class="pair">
      <section class="panel" aria-labelledby="sizes"><h2 id="sizes">Self-influence</h2>${summary.histogram ? html`<${SelfInfluence} histogram=${summary.histogram} onRange=${narrows ? onRange : null} />` : html`<p class="quiet">${WITHHELD}</p>`}</section>
      <section class="panel" aria-labelledby="classes"><h2 id="classes">Classes</h2><${ClassTable} classes=${summary.classes} onClass=${narrows ? onClass : null} /></section>
    </div>`;
}

function Examples({ summary, marks, onMark }) {
  const { model, route, update } = useContext(App);
  const filters = readFilters(route.params);
  const change = (changes) => update(changes, { replace: true });
  const { list, request, more, complete } = useExamples(model, filters);
  const edges = summary?.histogram?.edges ?? [];
  const largest = edges[edges.length - 1] ?? Math.max(0, ...list.rows.map((each) => each.self_influence ?? 0));
  const known = useMemo(() => new Map(list.rows.map((each) => [each.example_id, each])), [list.rows]);
  const shown = { names: model.class_names, reason: missingReason(model), marks: new Set(marks), onMark };
  const open = model.allow_examples;
  return html`<section class="panel examples" aria-labelledby="examples"><h2 id="examples">Training examples</h2>
    ${open ? html`<${DataFilters} filters=${filters} names=${model.class_names} sizes=${summary?.histogram != null} onChange=${change} />` : html`<p class="quiet">Ranked by self-influence; pictures, sources, filters and other orders need a service that was started with --allow-examples, and a token with the scope “examples” where it asks for one.</p>`}
    <${Loaded} list=${list} complete=${complete} loading=${request.loading} />
    ${request.error && html`<${Problem} request=${request} />`}
    <${ExampleGrid} rows=${list.rows} total=${list.total} largest=${largest} shown=${shown} order=${open ? filters.order : ORDERS[0]} onOrder=${open ? (order) => change({ order: order === ORDERS[0] ? null : order }) : null} onNearEnd=${more} />
    ${marks.length > 0 && html`<${Marked} marks=${marks} known=${known} model=${model} onClear=${() => change({ mark: null })} />`}
  </section>`;
}

function Marked({ marks, known, model, onClear }) {
  const examples = marks.map((id) => known.get(id) ?? { example_id: id });
  return html`<div class="marked-data" role="group" aria-label="Marked examples">
    <div class="row"><strong>${counted(marks.length, "example")} marked</strong><button type="button" onClick=${onClear}>Unmark all</button></div>
    <${MarkExport} examples=${examples} model=${model.name} />
  </div>`;
}

function Loaded({ list: { rows, total }, complete, loading }) {
  const said = loading && !rows.length ? "Fetching examples …" : `${counted(total, "example")}${complete || rows.length === total ? "" : `, ${count(rows.length)} fetched so far: scroll for more`}`;
  return html`<p class="quiet small" role="status">${said}</p>`;
}

/** Where examples may not be looked up, their ranking still may. */
function useExamples(model, filters) {
  const query = listQuery(filters, allowedView(model));
  const open = model.allow_examples;
  return usePages(JSON.stringify(["examples", model.name, open, query]), async (token, signal) => {
    const page = { page_token: token };
    if (!open) return suspectRows(model, await listSuspects(model.name, page, signal));
    const { examples, total, next_page_token: next } = await listExamples(model.name, { ...query, ...page }, signal);
    return { rows: examples, total, next };
  });
}

function suspectRows({ class_names: names }, { suspects, total, next_page_token: next }) {
  const rows = suspects.map(({ given_class_id: given, ...rest }) => ({ ...rest, class_id: given, label: names[given], source: "" }));
  return { rows, total, next };
}
