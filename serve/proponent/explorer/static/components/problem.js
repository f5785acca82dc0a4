/** The states in which there is nothing to show, each told as it is. */
import { useContext, useEffect, useState } from "../vendor/hooks.js";
import { App } from "../context.js";
import { html } from "../html.js";
import { TokenForm } from "./token_form.js";

/** @type {Record<import("../api.js").Kind, string>} */
const TITLES = {
  unauthenticated: "This service asks for a token",
  forbidden: "Not permitted",
  not_found: "Not found",
  invalid: "The service cannot use this",
  precondition: "Not possible with this bundle",
  not_ready: "Not ready",
  overloaded: "Busy",
  deadline: "It took too long",
  lost: "No connection",
  internal: "The service failed",
};

/**
 * An error with what can be done about it; one that passes by itself counts down to the next try.
 * @param {{request: import("../request.js").Request<any>}} props
 */
export function Problem({ request: { error, retryAt, retry } }) {
  const { refresh } = useContext(App);
  return html`<section class="problem" role="alert" data-kind=${error.kind}>
    <h2>${TITLES[error.kind]}</h2>
    <p>${error.message}</p>
    ${error.reason && html`<p class="quiet"><code>${error.reason}</code>${error.field && html` in <code>${error.field}</code>`}</p>`}
    ${error.kind === "unauthenticated"
      ? html`<${TokenForm} onSaved=${refresh} />`
      : error.kind !== "invalid" &&
        html`<p class="row"><button type="button" onClick=${retry}>Try again</button>
          ${retryAt !== null && html`<${Countdown} until=${retryAt} />`}</p>`}
  </section>`;
}

/** Seconds until the next try; not announced each second. */
function Countdown({ until }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, [until]);
  const seconds = Math.max(0, Math.ceil((until - now) / 1000));
  return html`<span class="quiet numeric" aria-live="off">${seconds ? `by itself in ${seconds} s` : "trying now …"}</span>`;
}

/** @param {{title: string, children?: any}} props Nothing to show, and why. */
export function Empty({ title, children }) {
  return html`<section class="empty"><h2>${title}</h2>${children}</section>`;
}

/** A link to a picture that was too large to be part of it. */
export function NotCarried() {
  return html`<h2>This link does not carry its picture</h2>
    <p>The picture was too large for a link, and is kept only in the tab where it was chosen, until that is reloaded. Choose it anew.</p>`;
}

/** @param {{what: string}} props */
export function Loading({ what }) {
  return html`<p class="loading" role="status">${what} …</p>`;
}

/**
 * What a request holds: children of its data, dimmed while a newer answer is on its way.
 * @param {{request: import("../request.js").Request<any>, what: string, children: (data: any) => any}} props
 */
export function Answer({ request, what, children }) {
  if (request.error) return html`<${Problem} request=${request} />`;
  if (request.data === null) return request.loading ? html`<${Loading} what=${what} />` : null;
  return html`<div class=${request.loading ? "answer pending" : "answer"} aria-busy=${request.loading}>${children(request.data)}</div>`;
}
