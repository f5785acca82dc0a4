/** Choosing one class, or several. */
import { useId, useMemo } from "../vendor/hooks.js";
import { html } from "../html.js";

/**
 * @param {{label: string, names: string[], value: number|null, none: string, onChange: (id: number|null) => void}} props
 *   None: what it means that no class is chosen.
 */
export function ClassPicker({ label, names, value, none, onChange }) {
  const id = useId();
  const change = ({ target }) => onChange(target.value === "" ? null : Number(target.value));
  return html`<div class="control"><label for=${id}>${label}</label>
    <select id=${id} value=${value ?? ""} onChange=${change}>
      <option value="">${none}</option><${Options} names=${names} />
    </select>
  </div>`;
}

/** @param {{label: string, names: string[], values: number[], none: string, onChange: (ids: number[]) => void}} props */
export function ClassesPicker({ label, names, values, none, onChange }) {
  const id = useId();
  const add = ({ target }) => {
    if (target.value !== "") onChange([...new Set([...values, Number(target.value)])]);
    target.value = "";
  };
  return html`<div class="control"><label for=${id}>${label}</label>
    <div class="row">
      ${values.map(
        (each) => html`<button key=${each} type="button" class="chip" aria-label=${`Take out ${names[each] ?? each}`} onClick=${() => onChange(values.filter((other) => other !== each))}>${names[each] ?? each} <span aria-hidden="true">×</span></button>`,
      )}
      <select id=${id} onChange=${add}><option value="">${values.length ? "add …" : none}</option><${Options} names=${names} /></select>
    </div>
  </div>`;
}

/** Kept as they are while the names are: a model may have thousands. */
function Options({ names }) {
  return useMemo(() => names.map((name, index) => html`<option key=${index} value=${String(index)}>${name}</option>`), [names]);
}
