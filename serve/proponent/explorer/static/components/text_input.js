/** Where a text is written that is to be explained. */
import { useEffect, useId, useState } from "../vendor/hooks.js";
import { html } from "../html.js";

/** @param {{value: string, onChoose: (changes: Record<string, string|null>) => void}} props Value: the text that is explained. */
export function TextInput({ value, onChoose }) {
  const id = useId();
  const [draft, setDraft] = useState(value);
  useEffect(() => setDraft(value), [value]);
  const submit = (event) => {
    event.preventDefault();
    onChoose({ sample: null, text: draft });
  };
  const key = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.currentTarget.form.requestSubmit();
  return html`<form class="written" onSubmit=${submit}>
    <label for=${id}>Text</label>
    <textarea id=${id} rows="6" required dir="auto" value=${draft} onInput=${({ target }) => setDraft(target.value)} onKeyDown=${key}></textarea>
    <p class="row"><button type="submit" class="primary">Explain this text</button> <span class="quiet small">or Ctrl + Enter. The text becomes part of the link.</span></p>
  </form>`;
}
