/** The training example that is pointed at or focused: it lights up wherever it stands on the page. */

/** Its id, "" before the first, and who is told of another one. */
export const lit = { id: "", listeners: new Set() };

/** @param {Event} event Of a pointer or of focus, inside or outside an element with `data-example`. */
export function followLight(event) {
  const id = event.target.closest?.("[data-example]")?.dataset.example;
  if (id === undefined || id === lit.id) return;
  lit.id = id;
  for (const element of document.querySelectorAll(".lit")) element.classList.remove("lit");
  for (const element of document.querySelectorAll(`[data-example="${CSS.escape(id)}"]`)) element.classList.add("lit");
  lit.listeners.forEach((listener) => listener(id));
}
