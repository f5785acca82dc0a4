/** Pictures of inputs and of training examples. */
import { useContext, useLayoutEffect, useMemo, useState } from "../vendor/hooks.js";
import { App } from "../context.js";
import { html } from "../html.js";
import { nounOf } from "../input.js";
import { fromBase64, mediaType } from "../pictures.js";

/**
 * @param {{bytes: Uint8Array, alt: string, class?: string}} props Small pictures show their pixels crisp.
 */
export function Picture({ bytes, alt, class: name = "" }) {
  const url = useMemo(() => URL.createObjectURL(new Blob([bytes], { type: mediaType(bytes) })), [bytes]);
  const [seen, setSeen] = useState({ url, state: "" });
  const state = seen.url === url ? seen.state : "";
  // Not useEffect: a row that is scrolled out of sight before the next paint would never give its picture back.
  useLayoutEffect(() => () => URL.revokeObjectURL(url), [url]);
  const measure = ({ target }) => setSeen({ url, state: Math.max(target.naturalWidth, target.naturalHeight) < 64 ? "crisp" : "" });
  if (state === "broken") return html`<span class=${`picture missing ${name}`} role="img" aria-label=${`${alt}: cannot be shown`}>?</span>`;
  return html`<img class=${`picture ${state} ${name}`} src=${url} alt=${alt} decoding="async" onLoad=${measure} onError=${() => setSeen({ url, state: "broken" })} />`;
}

/**
 * A training example's thumbnail, or a box with its label that says why there is none.
 * @param {{example: any, reason?: string, class?: string}} props
 */
export function Thumbnail({ example, reason = "it has none", class: name = "" }) {
  const { model } = useContext(App);
  const bytes = useMemo(() => fromBase64(example.thumbnail ?? ""), [example.thumbnail]);
  if (bytes.length) return html`<${Picture} bytes=${bytes} alt=${`Training example of ${example.label}`} class=${name} />`;
  const why = `No ${nounOf(model)}: ${reason}`;
  return html`<span class=${`picture missing ${name}`} role="img" aria-label=${why} title=${why}>${[...example.label].slice(0, 2).join("")}</span>`;
}
