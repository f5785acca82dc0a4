/** Where a row of a table is filled in that is to be explained: a field for each column of the model's signature. */
import { useEffect, useId, useState } from "../vendor/hooks.js";
import { html } from "../html.js";
import { valueText, visible } from "../rows.js";

/**
 * @param {{record: Record<string, any>|null, columns: any[], onChoose: (changes: Record<string, string|null>) => void}} props
 *   Record: the row that is explained. Columns: of the signature; none where the model does not tell them.
 */
export function RecordForm({ record, columns, onChoose }) {
  const [draft, setDraft] = useState(record ?? {});
  useEffect(() => setDraft(record ?? {}), [JSON.stringify(record)]);
  const submit = (event) => {
    event.preventDefault();
    const values = columns.length ? Object.fromEntries(columns.map(({ name }) => [name, draft[name] ?? null])) : draft;
    onChoose({ sample: null, record: JSON.stringify(values) });
  };
  const change = (name) => (value) => setDraft({ ...draft, [name]: value });
  return html`<form class="written" onSubmit=${submit}>
    ${columns.length ? html`<div class="fields">${columns.map((column) => html`<${Field} key=${column.name} column=${column} value=${draft[column.name] ?? null} onChange=${change(column.name)} />`)}</div>` : html`<${AsJson} value=${draft} onChange=${setDraft} />`}
    <p class="row"><button type="submit" class="primary">Explain this row</button> <span class="quiet small">It becomes part of the link.</span></p>
  </form>`;
}

/** Null is a missing value. */
function Field({ column, value, onChange }) {
  const id = useId();
  const { name, type, categories, optional } = column;
  const kind = type === "COLUMN_TYPE_FLAG" ? Choice : type === "COLUMN_TYPE_CATEGORY" && categories.length ? Choice : Written;
  const options = type === "COLUMN_TYPE_FLAG" ? [true, false] : categories;
  return html`<label for=${id}>${name}</label><${kind} id=${id} type=${type} options=${options} optional=${optional} value=${value} onChange=${onChange} />`;
}

/** Options are told apart by their places: a category may be an empty text. A value that is none of them is shown as such. */
function Choice({ id, options, optional, value, onChange }) {
  const unknown = value !== null && !options.includes(value);
  const all = unknown ? [...options, value] : options;
  return html`<select id=${id} required=${!optional} aria-invalid=${unknown} value=${value === null ? "" : String(all.indexOf(value))} onChange=${({ target }) => onChange(target.value === "" ? null : all[Number(target.value)])}>
    <option value="">${optional ? "missing" : "choose …"}</option>
    ${all.map((each, at) => html`<option key=${at} value=${String(at)}>${at < options.length ? valueText(each) : unknownText(each)}</option>`)}
  </select>`;
}

const unknownText = (value) => `${visible(valueText(value))} (unknown to the model)`;

function Written({ id, type, optional, value, onChange }) {
  const isNumber = type === "COLUMN_TYPE_NUMBER";
  const unknown = isNumber && value !== null && typeof value !== "number";
  const read = ({ target }) => (target.value === "" ? null : isNumber ? target.valueAsNumber : type === "COLUMN_TYPE_UNSPECIFIED" ? guessed(target.value) : target.value);
  return html`<input id=${id} type=${isNumber ? "number" : "text"} step="any" required=${!optional} aria-invalid=${unknown} placeholder=${unknown ? unknownText(value) : optional ? "missing" : ""} value=${unknown ? "" : (value ?? "")} onChange=${(event) => onChange(read(event))} />`;
}

/** Of a column whose type is not known: what reads as a number is one. */
const guessed = (text) => (Number.isFinite(Number(text)) && text.trim() ? Number(text) : text);

function AsJson({ value, onChange }) {
  const id = useId();
  const read = ({ target }) => {
    const found = parsed(target.value);
    target.setCustomValidity(found ? "" : "Not a JSON object");
    if (found) onChange(found);
  };
  return html`<label for=${id}>Row, as a JSON object of columns and values</label>
    <textarea id=${id} rows="8" required spellcheck="false" onChange=${read}>${JSON.stringify(value, null, 1)}</textarea>`;
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}
