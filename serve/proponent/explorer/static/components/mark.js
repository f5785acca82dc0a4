/** The mark of a training example. It alone hears of changed marks, so that long lists stay as they are. */
import { createContext } from "../vendor/preact.js";
import { useContext } from "../vendor/hooks.js";
import { html } from "../html.js";

/** @type {import("../vendor/preact.js").Context<{marks: Set<string>, onMark: (id: string, marked: boolean) => void}>} */
export const Marks = createContext({ marks: new Set(), onMark: () => {} });

/** @param {{id: string}} props */
export function Mark({ id }) {
  const { marks, onMark } = useContext(Marks);
  return html`<input type="checkbox" aria-label=${`Mark ${id}`} checked=${marks.has(id)} onChange=${(event) => onMark(id, event.target.checked)} />`;
}

/**
 * @param {string[]} marks @param {import("../context.js").AppState["update"]} update
 * @returns {(id: string, marked: boolean) => void} Marks in the address.
 */
export const markIn = (marks, update) => (id, marked) =>
  update({ mark: marked ? [...marks, id] : marks.filter((each) => each !== id) }, { replace: true });
