/** Which model, which view, and under which token. */
import { useState } from "../vendor/hooks.js";
import { html } from "../html.js";
import { formatHash } from "../route.js";
import { token } from "../session.js";
import { ThemeToggle } from "./theme_toggle.js";
import { TokenForm } from "./token_form.js";

/** @type {[string, string][]} */
export const VIEWS = [
  ["explain", "Explain"],
  ["whatif", "What if"],
  ["data", "Data"],
  ["model", "Model"],
];

/**
 * @param {{models: {name: string, ready: boolean}[], model: string, route: import("../route.js").Route,
 *   onModel: (name: string) => void, onToken: () => void}} props
 */
export function Header({ models, model, route, onModel, onToken }) {
  const [asks, setAsks] = useState(false);
  const saved = () => {
    setAsks(false);
    onToken();
  };
  return html`<header class="top">
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <h1 class="brand">proponent</h1>
    <${ModelPicker} models=${models} model=${model} onModel=${onModel} />
    <nav aria-label="Views"><ul class="tabs">
      ${VIEWS.map(([view, name]) => html`<li key=${view}><a href=${linkTo(view, route)} aria-current=${view === route.view ? "page" : null}>${name}</a></li>`)}
    </ul></nav>
    <span class="push"></span>
    <button type="button" class="plain" aria-expanded=${asks} onClick=${() => setAsks(!asks)}>${token() ? "Token ✓" : "Token"}</button>
    <${ThemeToggle} />
    ${asks && html`<div class="below"><${TokenForm} onSaved=${saved} /></div>`}
  </header>`;
}

function ModelPicker({ models, model, onModel }) {
  const names = models.some((each) => each.name === model) || !model ? models : [{ name: model, ready: true }, ...models];
  return html`<label class="model-picker"><span class="visually-hidden">Model</span>
    <select value=${model} disabled=${!names.length} onChange=${(event) => onModel(event.target.value)}>
      ${names.map((each) => html`<option key=${each.name} value=${each.name}>${each.name}${each.ready ? "" : " (not ready)"}</option>`)}
    </select>
  </label>`;
}

/** The input and the marks belong to all views; what else a view keeps in the address is its own. */
const SHARED = ["model", "sample", "image", "upload", "target", "against", "mark"];

function linkTo(view, route) {
  if (view === route.view) return formatHash(route);
  const kept = [...route.params].filter(([key]) => SHARED.includes(key));
  return formatHash({ view, params: new URLSearchParams(kept) });
}

/** A link to a fragment would leave the view, whose address is the fragment. */
function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}
