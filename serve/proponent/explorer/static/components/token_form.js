/** Where a token is entered; it stays in this tab. */
import { useId, useRef } from "../vendor/hooks.js";
import { html } from "../html.js";
import { setToken, token } from "../session.js";

/** @param {{onSaved: () => void}} props */
export function TokenForm({ onSaved }) {
  const id = useId();
  const field = useRef(null);
  const save = (value) => {
    setToken(value.trim());
    onSaved();
  };
  const submit = (event) => {
    event.preventDefault();
    save(field.current.value);
  };
  return html`<form class="row token-form" onSubmit=${submit}>
    <label for=${id}>Token</label>
    <input id=${id} ref=${field} type="password" autocomplete="off" spellcheck="false" required />
    <button type="submit">Use it</button>
    ${token() && html`<button type="button" onClick=${() => save("")}>Forget it</button>`}
    <span class="quiet">Kept in this tab until it is closed, and sent to this server only.</span>
  </form>`;
}
