/** What is asked of the explanation: all of it stands in the address. */
import { useId } from "../vendor/hooks.js";
import { html } from "../html.js";
import { DEFAULT_GAMMA, DEFAULT_K, TERMS } from "../question.js";
import { ClassesPicker, ClassPicker } from "./class_picker.js";

const TERM_NAMES = {
  sum: "no two alike",
  "facility-location": "covering the others",
  mmd: "mirroring the others",
};

/**
 * @param {{question: import("../question.js").Question, names: string[], predicted: number|null,
 *   onChange: (changes: Record<string, any>) => void}} props
 */
export function Controls({ question, names, predicted, onChange }) {
  const texts = (ids) => ids.map(String);
  const explained = question.target ?? predicted;
  const contrast = (id) => onChange({ against: id === null ? null : String(id), target: explained === null ? null : String(explained) });
  const target = (id) => onChange({ target: id === null ? null : String(id), ...(id === null || id === question.against ? { against: null } : {}) });
  return html`<fieldset class="controls"><legend class="visually-hidden">What is asked</legend>
    <${NumberControl} label="Examples in each list" value=${question.k} min=${1} max=${100} step=${1} onChange=${(k) => onChange({ k: k === DEFAULT_K ? null : String(k) })} />
    <${ClassPicker} label="Why" names=${names} value=${question.target} none=${predicted === null ? "the prediction" : `${names[predicted]} (predicted)`} onChange=${target} />
    <${ClassPicker} label="rather than" names=${names} value=${question.against} none="anything else" onChange=${contrast} />
    <${ClassesPicker} label="Only examples labelled" names=${names} values=${question.allow} none="any label" onChange=${(ids) => onChange({ allow: texts(ids) })} />
    <${ClassesPicker} label="None labelled" names=${names} values=${question.deny} none="—" onChange=${(ids) => onChange({ deny: texts(ids) })} />
    <${DivineControls} question=${question} onChange=${onChange} />
  </fieldset>`;
}

const STRENGTH_NAMES = { gamma: "by weight", loss: "by its price" };

function DivineControls({ question: { term, gamma, loss }, onChange }) {
  const by = (kind) => onChange(kind === "loss" ? { loss: "0.1", gamma: null } : { loss: null, gamma: null });
  return html`
    <${NamedPicker} label="DIVINE: diverse means" value=${term} names=${TERM_NAMES} onChange=${(name) => onChange({ term: name === TERMS[0] ? null : name })} />
    <${NamedPicker} label="DIVINE: how much" value=${loss === null ? "gamma" : "loss"} names=${STRENGTH_NAMES} onChange=${by} />
    ${
      loss === null
        ? html`<${NumberControl} key="gamma" label="DIVINE: gamma" value=${gamma} min=${0} max=${100} step=${0.25} onChange=${(value) => onChange({ gamma: value === DEFAULT_GAMMA ? null : String(value) })} />`
        : html`<${NumberControl} key="loss" label="DIVINE: loses at most, %" value=${Number((loss * 100).toPrecision(12))} min=${0} max=${100} step=${1} onChange=${(value) => onChange({ loss: String(value / 100) })} />`
    }`;
}

/** @param {{label: string, value: string, names: Record<string, string>, onChange: (value: string) => void}} props */
function NamedPicker({ label, value, names, onChange }) {
  const id = useId();
  return html`<div class="control"><label for=${id}>${label}</label>
    <select id=${id} value=${value} onChange=${({ target }) => onChange(target.value)}>
      ${Object.entries(names).map(([key, name]) => html`<option key=${key} value=${key}>${name}</option>`)}
    </select></div>`;
}

/** A number that counts once it is whole: when it is left, or stepped. */
function NumberControl({ label, value, min, max, step, onChange }) {
  const id = useId();
  const change = ({ target }) => {
    const number = target.valueAsNumber;
    if (Number.isFinite(number)) onChange(Math.min(max, Math.max(min, step === 1 ? Math.round(number) : number)));
  };
  return html`<div class="control"><label for=${id}>${label}</label>
    <input id=${id} type="number" class="numeric" value=${value} min=${min} max=${max} step=${step} onChange=${change} /></div>`;
}
