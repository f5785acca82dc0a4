/** What narrows the grid of training examples; all of it stands in the address. */
import { useId } from "../vendor/hooks.js";
import { html } from "../html.js";
import { isNarrowed } from "../filters.js";
import { ClassesPicker } from "./class_picker.js";

/**
 * @param {{filters: import("../filters.js").Filters, names: string[], sizes: boolean, onChange: (changes: Record<string, any>) => void}} props
 *   Sizes: whether the service tells how large self-influence is.
 */
export function DataFilters({ filters, names, sizes, onChange }) {
  const classes = (key) => (ids) => onChange({ [key]: ids.map(String) });
  return html`<fieldset class="controls"><legend class="visually-hidden">Which examples</legend>
    <label class="control"><span>Show</span>
      <select value=${filters.all ? "all" : ""} onChange=${({ target }) => onChange({ show: target.value || null })}>
        <option value="">labels in doubt</option>
        <option value="all">all examples</option>
      </select></label>
    <${ClassesPicker} label="Labelled" names=${names} values=${filters.labels} none="any label" onChange=${classes("label")} />
    <${ClassesPicker} label="The model says" names=${names} values=${filters.predicted} none="anything" onChange=${classes("predicted")} />
    ${sizes && html`<${Bound} label="Self-influence from" value=${filters.least} onChange=${(least) => onChange({ least })} /><${Bound} label="to" value=${filters.most} onChange=${(most) => onChange({ most })} />`}
    ${isNarrowed(filters) && html`<button type="button" onClick=${() => onChange({ label: null, predicted: null, least: null, most: null })}>Clear filters</button>`}
  </fieldset>`;
}

/** An empty field is no bound. */
function Bound({ label, value, onChange }) {
  const id = useId();
  const change = ({ target }) => onChange(Number.isFinite(target.valueAsNumber) ? String(target.valueAsNumber) : null);
  return html`<div class="control"><label for=${id}>${label}</label>
    <input id=${id} type="number" class="numeric" step="any" value=${value ?? ""} onChange=${change} /></div>`;
}
