/** The training example that is pointed at or focused: it lights up wherever it stands on the page. */
import { useEffect, useState } from "./vendor/hooks.js";

let present = "";
const listeners = new Set();

/** @param {Event} event Of a pointer or of focus, inside or outside an element with `data-example`. */
export function followLight(event) {
  const id = event.target.closest?.("[data-example]")?.dataset.example;
  if (id === undefined || id === present) return;
  present = id;
  for (const element of document.querySelectorAll(".lit")) element.classList.remove("lit");
  for (const element of document.querySelectorAll(`[data-example="${CSS.escape(id)}"]`)) element.classList.add("lit");
  listeners.forEach((listener) => listener(id));
}

/** @returns {string} Its id; "" before the first. */
export function useLit() {
  const [id, setId] = useState(present);
  useEffect(() => {
    listeners.add(setId);
    return () => listeners.delete(setId);
  }, []);
  return id;
}
